"""What the service serves: anything with a signature that answers `run(inputs) -> outputs`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from normserve_proto.tensors import Array

DYNAMIC = -1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: its name in the model's file.
        datatype: a name of the wire, such as "FP32".
        shape: extents; `DYNAMIC` where any is accepted. With batching, the first is the batch's.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        inputs: all required.
        outputs: in the model's order, which is also the order of an answer that asks for all of them.
        max_batch_size: most samples in one run; 0 where the model has no batch axis and requests run one by one.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int


class Servable(Protocol):
    """A model that is loaded. One thread at a time calls `run`."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    @property
    def provider(self) -> str:
        """What computes it, such as "CUDAExecutionProvider"."""

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs, in the signature's order, of arrays that fit the signature."""
