"""A model whose clients see other shapes than its file has: ModelConfig's `reshape`. No element is moved or copied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normserve_proto.tensors import Array

from normserve_server.compute import Times
from normserve_server.servable import DYNAMIC, Servable, Signature


@dataclass(frozen=True, slots=True)
class Reshape:
    """One tensor's two shapes, both without the batch's extent; `DYNAMIC` where any is accepted, as often in both.

    Attributes:
        dims: as clients see it.
        shape: as the model's file has it.
    """

    dims: tuple[int, ...]
    shape: tuple[int, ...]

    def to_file(self, array: Array, *, batched: bool) -> Array:
        """Gives a client's array the file's shape; a view.

        Args:
            array: of shape `dims`, with the batch's extent before it where there is one.
            batched: whether there is one.
        """
        return _reshaped(array, self.dims, self.shape, int(batched))

    def to_client(self, array: Array, *, batched: bool) -> Array:
        """Gives the file's array the shape that clients see; as `to_file`, the other way."""
        return _reshaped(array, self.shape, self.dims, int(batched))


class Reshaped:
    """A servable behind its reshapes.

    Args:
        servable: as the model's file has it.
        signature: as clients see it.
        inputs: by name, of those that differ.
        outputs: likewise.
    """

    def __init__(
        self, servable: Servable, signature: Signature, inputs: Mapping[str, Reshape], outputs: Mapping[str, Reshape]
    ) -> None:
        self.signature = signature
        self._servable = servable
        self._inputs = inputs
        self._outputs = [outputs.get(spec.name) for spec in signature.outputs]
        self._batched = signature.max_batch_size > 0

    @property
    def provider(self) -> str:
        """What computes it."""
        return self._servable.provider

    @property
    def times(self) -> Times | None:
        """How long the parts of the calling thread's last run took on the device; None where that is not known."""
        return getattr(self._servable, "times", None)

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs of arrays that fit the signature; raises what the servable raises."""
        sent = {name: self._to_file(name, array) for name, array in inputs.items()}
        outputs = zip(self._servable.run(sent), self._outputs, strict=True)
        return [reshape.to_client(array, batched=self._batched) if reshape else array for array, reshape in outputs]

    def _to_file(self, name: str, array: Array) -> Array:
        reshape = self._inputs.get(name)
        return reshape.to_file(array, batched=self._batched) if reshape else array


def _reshaped(array: Array, before: Sequence[int], after: Sequence[int], lead: int) -> Array:
    given = zip(array.shape[lead:], before, strict=True)
    free = iter([extent for extent, declared in given if declared == DYNAMIC])
    return array.reshape(array.shape[:lead] + tuple(next(free) if extent == DYNAMIC else extent for extent in after))
