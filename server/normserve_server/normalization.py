"""`normserve.v1.NormalizationService`: tensors in, normalized ones out, one a call or one after the other in a stream."""

from collections.abc import Callable

from normserve_proto import normalization_pb2 as pb
from normserve_proto import wire
from normserve_proto.tensors import Array

from normserve_server.calls import Call
from normserve_server.errors import OverloadedError
from normserve_server.inline import depends_on_threads, is_small
from normserve_server.interceptors import Codec
from normserve_server.operations import operation
from normserve_server.operators import Normalized, Place
from normserve_server.refusals import Refusal
from normserve_server.streaming import StreamCodec
from normserve_server.tensor_calls import Answer, Request, parser, parts, serialize, small
from normserve_server.workers import Worker

RETRY_AFTER_MS = 50
MOST_AHEAD = 8  # messages of a stream: enough for one to be computed while others are read and written
_INPUT = 1  # NormalizeRequest.input
_RESPONSE = 1  # NormalizeStreamResponse.response


class NormalizationServicer:
    """Handlers of the service.

    Args:
        worker: the thread that big tensors are normalized on.
        max_queue_size: most single calls that wait for it; the next one is refused. Streams wait, and are not read meanwhile.
        place: where operators compute.
    """

    codecs: dict[str, Codec | StreamCodec]

    def __init__(self, worker: Worker, max_queue_size: int, place: Place) -> None:
        self._worker = worker
        self._place = place
        self._max_queue_size = max_queue_size
        self._waiting = 0
        self.codecs = {"Normalize": (parse, serialize), "NormalizeStream": STREAM}

    async def Normalize(self, request: Request, call: Call) -> Answer:  # noqa: N802
        """Applies one operator to one tensor."""
        x, compute = self._read(request, call)
        if _stays(request, x):
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
        x, compute = self._read(request, call)
        return _answer(request, compute() if _stays(request, x) else await self._worker.call(compute), call)

    def _read(self, request: Request, call: Call) -> tuple[Array, Callable[[], Normalized[Array]]]:
        x = request.array()
        compute = operation(request.message)
        call.lap("decode")
        return x, lambda: self._place.run(x, compute)


parse = parser(pb.NormalizeRequest, _INPUT)


def serialize_message(answer: Answer) -> bytes:
    """Writes an answer as one of a stream."""
    message = parts(answer)
    return b"".join((wire.prefix(_RESPONSE, sum(map(len, message))), *message))


def refuse(_data: bytes, refusal: Refusal) -> bytes:
    """Gives the message of a stream that tells of an error."""
    error = pb.NormalizeError(code=refusal.code.value[0], message=refusal.text)
    return pb.NormalizeStreamResponse(error=error).SerializeToString()


STREAM = StreamCodec(parse, serialize_message, refuse, MOST_AHEAD)


def _stays(request: Request, x: Array) -> bool:
    """Whether it is computed on the loop, which has one thread for that."""
    return is_small(x) and not (request.message.batch_norm.training and depends_on_threads(x))


def _answer(request: Request, normalized: Normalized[Array], call: Call) -> Answer:
    call.lap("compute")
    message = pb.NormalizeResponse(running_mean=_tensor(normalized.running_mean), running_var=_tensor(normalized.running_var))
    layer = request.message.batch_norm
    if layer.training and layer.HasField("num_batches_tracked"):
        message.num_batches_tracked = layer.num_batches_tracked + 1
    return Answer(message, normalized.output)


def _tensor(array: Array | None) -> pb.Tensor | None:
    return None if array is None else small(array)
