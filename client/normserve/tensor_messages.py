"""Tensors in normserve's own messages; big ones past protobuf, so that their memory is copied once out and not at all in."""

from collections.abc import Sequence

import numpy as np
from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensors, wire
from normserve_proto.tensors import Array, Buffer

from normserve.requests import encode_input

_DATA = 3  # Tensor.data


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
    """Appends a tensor of any size to a serialized message.

    Args:
        head: the message without it.
        field: the number of its field, 1 to 15.
        name: for errors.
        array: its content.

    Raises:
        InvalidArgumentError: its dtype has no name on the wire.
    """
    array = np.asarray(array)
    data = encode_input(name, array)
    description = pb.Tensor(datatype=tensors.datatype_of(array), shape=array.shape).SerializeToString()
    data_prefix = wire.prefix(_DATA, len(data))
    tensor_prefix = wire.prefix(field, len(description) + len(data_prefix) + len(data))
    return b"".join((head, tensor_prefix, description, data_prefix, data))


def viewed(name: str, messages: Sequence[memoryview]) -> Array:
    """Decodes a big tensor without a copy; more than one message for it, which nobody sends, are merged as protobuf does.

    Raises:
        TensorError: it does not fit its own description.
        DecodeError: the bytes are no such message.
    """
    if len(messages) != 1:
        return decoded(name, pb.Tensor.FromString(b"".join(messages)))
    head, data = wire.split(messages[0], _DATA)
    message = pb.Tensor.FromString(bytes(head))
    if data is None:
        return decoded(name, message)
    return decoded(name, message, data[-1] if data else b"")


def decoded(name: str, message: pb.Tensor, data: Buffer | None = None) -> Array:
    """Views a tensor's data, or what stands for it, as an array.

    Raises:
        TensorError: it does not fit its own description.
    """
    return tensors.decode(name, message.datatype, message.shape, message.data if data is None else data)
