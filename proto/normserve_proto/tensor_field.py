"""The one big tensor of a message of normserve.v1, without copying it more than once; `wire` has the reasons."""

from collections.abc import Sequence
from typing import NamedTuple

from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensors, wire
from normserve_proto.tensors import Array, Buffer

_DATA = 3  # Tensor.data


class Split(NamedTuple):
    """A message without one of its tensors.

    Attributes:
        head: the message; all of it where `tensor` is None.
        tensor: the tensor's description; None where it is left in the head.
        data: its elements, a view of the message; None where they are in `tensor`.
    """

    head: bytes
    tensor: pb.Tensor | None = None
    data: Buffer | None = None


def split(message: bytes | memoryview, field: int) -> Split:
    """Separates a Tensor from the rest of a message, where it is big enough for that to pay.

    Args:
        message: a serialized message.
        field: the number of a singular field of type Tensor, 1 to 15.

    Raises:
        DecodeError: it is not a Tensor.
    """
    head, entries = wire.split(memoryview(message), field)
    if not entries:
        return Split(bytes(message))
    if len(entries) > 1:  # which nobody sends; protobuf merges them
        return Split(bytes(head), pb.Tensor.FromString(b"".join(entries)))
    description, data = wire.split(entries[0], _DATA)
    tensor = pb.Tensor.FromString(bytes(description))
    return Split(bytes(head), tensor, data[-1] if data else None)


def decode(name: str, tensor: pb.Tensor, data: Buffer | None = None) -> Array:
    """Views a tensor as an array.

    Args:
        name: the tensor's, for errors' texts.
        tensor: its description, with its elements where `data` is None.
        data: its elements.

    Raises:
        TensorError: it does not fit its own description.
    """
    return tensors.decode(name, tensor.datatype, tensor.shape, tensor.data if data is None else data)


def parts(head: bytes, field: int, array: Array, data: Buffer) -> Sequence[Buffer]:
    """Gives what, joined, is a message with a tensor: the inverse of `split`.

    Args:
        head: a serialized message, without that field.
        field: its number, 1 to 15.
        array: any tensor.
        data: its elements, as `tensors.encode` gives them.
    """
    description = pb.Tensor(datatype=tensors.datatype_of(array), shape=array.shape).SerializeToString()
    data_prefix = wire.prefix(_DATA, len(data))
    return head, wire.prefix(field, len(description) + len(data_prefix) + len(data)), description, data_prefix, data
