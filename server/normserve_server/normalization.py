"""`normserve.v1.NormalizationService`: tensors in, normalized ones out, one a call or one after the other in a stream."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensor_field, tensors, wire
from normserve_proto.tensors import Array, Buffer

from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError, OverloadedError
from normserve_server.inline import is_small
from normserve_server.interceptors import Codec
from normserve_server.operations import operation
from normserve_server.operators import Normalized
from normserve_server.refusals import Refusal
from normserve_server.streaming import StreamCodec
from normserve_server.workers import Worker

RETRY_AFTER_MS = 50
MOST_AHEAD = 8  # messages of a stream: enough for one to be computed while others are read and written
_INPUT = 1  # NormalizeRequest.input
_OUTPUT = 1  # NormalizeResponse.output
_RESPONSE = 1  # NormalizeStreamResponse.response


class Request(NamedTuple):
    """A NormalizeRequest; its input is in `message` where `input` is None."""

    message: pb.NormalizeRequest
    input: pb.Tensor | None
    data: Buffer | None


class Answer(NamedTuple):
    """A NormalizeResponse, without its output, and the output."""

    message: pb.NormalizeResponse
    output: Array


class NormalizationServicer:
    """Handlers of the service.

    Args:
        worker: the thread that big tensors are normalized on.
        max_queue_size: most single calls that wait for it; the next one is refused. Streams wait, and are not read meanwhile.
    """

    codecs: dict[str, Codec | StreamCodec]

    def __init__(self, worker: Worker, max_queue_size: int) -> None:
        self._worker = worker
        self._max_queue_size = max_queue_size
        self._waiting = 0
        self.codecs = {"Normalize": (parse, serialize), "NormalizeStream": STREAM}

    async def Normalize(self, request: Request, call: Call) -> Answer:  # noqa: N802
        """Applies one operator to one tensor."""
        x, compute = _read(request, call)
        if is_small(x):
            return _answer(request, compute(), call)
        if self._waiting > self._max_queue_size:  # one of them runs
            raise OverloadedError(
                f"{self._max_queue_size} normalizations wait already, which is the limit", retry_after_ms=RETRY_AFTER_MS
            )
        self._waiting += 1
        try:
            return _answer(request, await self._worker.call(compute), call)
        finally:
            self._waiting -= 1

    async def NormalizeStream(self, request: Request, call: Call) -> Answer:  # noqa: N802
        """Applies one operator to the tensor of one message."""
        x, compute = _read(request, call)
        return _answer(request, compute() if is_small(x) else await self._worker.call(compute), call)


def parse(data: bytes) -> Request:
    """Reads a message; a big input stays a view of it."""
    head, tensor, elements = tensor_field.split(data, _INPUT)
    return Request(pb.NormalizeRequest.FromString(head), tensor, elements)


def serialize(answer: Answer) -> bytes:
    """Writes an answer; the output's memory is copied once."""
    return b"".join(_parts(answer))


def serialize_message(answer: Answer) -> bytes:
    """Writes an answer as one of a stream; likewise."""
    parts = _parts(answer)
    return b"".join((wire.prefix(_RESPONSE, sum(map(len, parts))), *parts))


def refuse(_data: bytes, refusal: Refusal) -> bytes:
    """Gives the message of a stream that tells of an error."""
    error = pb.NormalizeError(code=refusal.code.value[0], message=refusal.text)
    return pb.NormalizeStreamResponse(error=error).SerializeToString()


STREAM = StreamCodec(parse, serialize_message, refuse, MOST_AHEAD)


def _parts(answer: Answer) -> Sequence[Buffer]:
    return tensor_field.parts(answer.message.SerializeToString(), _OUTPUT, answer.output, tensors.encode(answer.output))


def _read(request: Request, call: Call) -> tuple[Array, Callable[[], Normalized]]:
    message = request.message
    if request.input is None and not message.HasField("input"):
        raise InvalidRequestError("input: required, got none")
    x = tensor_field.decode("input", message.input if request.input is None else request.input, request.data)
    compute = operation(x, message)
    call.lap("decode")
    return x, compute


def _answer(request: Request, normalized: Normalized, call: Call) -> Answer:
    call.lap("compute")
    message = pb.NormalizeResponse(running_mean=_tensor(normalized.running_mean), running_var=_tensor(normalized.running_var))
    layer = request.message.batch_norm
    if layer.training and layer.HasField("num_batches_tracked"):
        message.num_batches_tracked = layer.num_batches_tracked + 1
    return Answer(message, normalized.output)


def _tensor(array: Array | None) -> pb.Tensor | None:
    if array is None:
        return None
    return pb.Tensor(datatype=tensors.datatype_of(array), shape=array.shape, data=bytes(tensors.encode(array)))
