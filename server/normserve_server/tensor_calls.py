"""Calls of normserve.v1 that carry one tensor, which goes past protobuf: a big input is not copied, and an output once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message
from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensor_field, tensors
from normserve_proto.tensors import Array, Buffer

from normserve_server.errors import InvalidRequestError

_OUTPUT = 1  # in every answer


class Request(NamedTuple):
    """A call's message; its input is in `message` where `input` is None."""

    message: Any
    input: pb.Tensor | None
    data: Buffer | None

    def array(self) -> Array:
        """Views the input as an array.

        Raises:
            InvalidRequestError: there is none.
            TensorError: it does not fit its own description.
        """
        if self.input is None and not self.message.HasField("input"):
            raise InvalidRequestError("input: required, got none")
        return tensor_field.decode("input", self.message.input if self.input is None else self.input, self.data)


class Answer(NamedTuple):
    """A call's answer, without its output, and the output."""

    message: Message
    output: Array


def parser(kind: type[Message], field: int) -> Callable[[bytes], Request]:
    """Gives what reads messages of this kind, whose input has this number."""

    def parse(data: bytes) -> Request:
        head, tensor, elements = tensor_field.split(data, field)
        return Request(kind.FromString(head), tensor, elements)

    return parse


def parts(answer: Answer) -> Sequence[Buffer]:
    """Gives what, joined, is the answer's message."""
    return tensor_field.parts(answer.message.SerializeToString(), _OUTPUT, answer.output, tensors.encode(answer.output))


def serialize(answer: Answer) -> bytes:
    """Writes an answer."""
    return b"".join(parts(answer))


def small(array: Array) -> pb.Tensor:
    """A small tensor as a message, with a copy of its elements."""
    return pb.Tensor(datatype=tensors.datatype_of(array), shape=array.shape, data=bytes(tensors.encode(array)))
