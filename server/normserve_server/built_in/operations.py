"""What the built-in models are: each operator's tensors, arguments and how it is called."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from normserve_proto.tensors import Array

from normserve_server import operators
from normserve_server.built_in.arguments import BOOLEAN, EXTENTS, INTEGER, NUMBER, Argument
from normserve_server.errors import InvalidRequestError
from normserve_server.operators import Normalized

PREFIX = "normserve."
INPUT, OUTPUT = "input", "output"
COUNT = "num_batches_tracked"
STATISTICS = ("running_mean", "running_var")

_AFFINE = ("weight", "bias")
_EPS = Argument(NUMBER, "1e-5")
_MOMENTUM = Argument(NUMBER, "0.1")


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """An operator as a model.

    Attributes:
        operator: its name.
        compute: called with `input`, with every optional tensor, None where it was not given, and with the given arguments.
        optional: the names of the tensors that may be left out.
        arguments: by name.
        training: the argument that says whether statistics are updated, where there are some; and `trains`, its default.
        sample: arguments with which it takes the `input` of `SAMPLE_SHAPE`.
    """

    operator: str
    compute: Callable[..., Normalized]
    optional: tuple[str, ...]
    arguments: Mapping[str, Argument]
    training: str = ""
    trains: bool = False
    sample: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The model's name."""
        return PREFIX + self.operator

    def updated(self, tensors: Collection[str], arguments: Mapping[str, Array]) -> tuple[str, ...]:
        """Names the statistics that come back updated.

        Args:
            tensors: the names of those that were given.
            arguments: those that were given.
        """
        if not self.training or not bool(arguments.get(self.training, self.trains)):
            return ()
        statistics = STATISTICS if set(STATISTICS) <= set(tensors) else ()
        return (*statistics, *((COUNT,) if COUNT in tensors else ()))

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Computes the outputs: the input normalized, then what is `updated`.

        Args:
            inputs: tensors and arguments by name.

        Raises:
            InvalidRequestError: they do not fit together.
        """
        arguments = {name: inputs[name] for name in self.arguments if name in inputs}
        tensors = {name: inputs.get(name) for name in self.optional}
        values = {name: array.tolist() for name, array in arguments.items()}
        normalized = self.compute(input=inputs[INPUT], **tensors, **values)
        statistics = (normalized.running_mean, normalized.running_var)
        updated = [array for array in statistics if array is not None]
        if COUNT in self.updated(inputs, arguments):
            updated.append(np.asarray(inputs[COUNT] + 1))
        return [normalized.output, *updated]


def _batch_norm(
    *, num_batches_tracked: Array | None, cumulative: bool = False, momentum: float | None = None, **others: Any
) -> Normalized:
    count = None if num_batches_tracked is None else _count(num_batches_tracked)
    if cumulative:
        if momentum is not None or count is None:
            raise InvalidRequestError(f"cumulative averaging takes input '{COUNT}' and no parameter 'momentum'")
        momentum = 1.0 / (count + 1)
    if momentum is not None:
        others["momentum"] = momentum
    return operators.batch_norm(**others)


def _count(array: Array) -> int:
    if array.dtype != np.int64 or array.size != 1 or not 0 <= array.item() < 2**63 - 1:
        raise InvalidRequestError(f"input '{COUNT}' is one INT64 >= 0 that can be counted up, got {array.tolist()}")
    return int(array.item())


SAMPLE_SHAPE = (2, 2, 2)

OPERATIONS = (
    Operation(
        "batch_norm",
        _batch_norm,
        (*_AFFINE, *STATISTICS, COUNT),
        {
            "training": Argument(BOOLEAN, "false"),
            "momentum": _MOMENTUM,
            "eps": _EPS,
            "cumulative": Argument(BOOLEAN, "false"),
        },
        training="training",
        sample={"training": True},
    ),
    Operation(
        "instance_norm",
        operators.instance_norm,
        (*_AFFINE, *STATISTICS),
        {"use_input_stats": Argument(BOOLEAN, "true"), "momentum": _MOMENTUM, "eps": _EPS},
        training="use_input_stats",
        trains=True,
    ),
    Operation(
        "layer_norm",
        operators.layer_norm,
        _AFFINE,
        {"normalized_shape": Argument(EXTENTS), "eps": _EPS},
        sample={"normalized_shape": [2]},
    ),
    Operation(
        "group_norm",
        operators.group_norm,
        _AFFINE,
        {"num_groups": Argument(INTEGER), "eps": _EPS},
        sample={"num_groups": 1},
    ),
    Operation(
        "rms_norm",
        operators.rms_norm,
        ("weight",),
        {"normalized_shape": Argument(EXTENTS), "eps": Argument(NUMBER, "the machine epsilon of the computing type")},
        sample={"normalized_shape": [2]},
    ),
)
