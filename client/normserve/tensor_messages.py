"""Arrays as the tensors of normserve's own messages."""

import numpy as np
from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensor_field, tensors
from normserve_proto.tensors import Array

from normserve.requests import encode_input


def tensor(name: str, array: Array) -> pb.Tensor:
    """Gives the message of a small array.

    Raises:
        InvalidArgumentError: its dtype has no name on the wire; the text has `name`.
    """
    array = np.asarray(array)
    data = bytes(encode_input(name, array))
    return pb.Tensor(datatype=tensors.datatype_of(array), shape=array.shape, data=data)


def optional_tensor(name: str, array: Array | None) -> pb.Tensor | None:
    """As `tensor`; None for None."""
    return None if array is None else tensor(name, array)


def joined(head: bytes, field: int, name: str, array: Array) -> bytes:
    """Appends a tensor of any size to a serialized message, so that the array's memory is copied once.

    Args:
        head: the message without it.
        field: the number of its field, 1 to 15.
        name: for errors.
        array: its content.

    Raises:
        InvalidArgumentError: its dtype has no name on the wire.
    """
    array = np.asarray(array)
    return b"".join(tensor_field.parts(head, field, array, encode_input(name, array)))
