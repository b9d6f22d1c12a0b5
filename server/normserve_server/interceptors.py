"""The door between gRPC and the handlers: admission, deadline, parsing, errors to status codes, metrics.

Handlers take a parsed request and a `Call`, and know nothing of gRPC. The door is built into the method table once, instead of
being a `grpc.aio.ServerInterceptor`, which would be looked up again for each call. Single calls come to it from `direct_calls`,
or from grpc.aio as all streams do.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from normserve_server.admission import Admission
from normserve_server.calls import Call, now
from normserve_server.errors import Codes, DeadlineExceededError
from normserve_server.outcomes import Outcomes
from normserve_server.processes.fan_out import FanOut
from normserve_server.recording import Recorder
from normserve_server.streaming import Handler, Stream, StreamCodec, StreamMethod
from normserve_server.trace_context import parent

Codec: TypeAlias = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
# Answers a message with bytes, or with None where it has told the context of an error.
Answer: TypeAlias = Callable[[bytes, Any], Awaitable[bytes | None]]


class Door:
    """Wraps handlers for gRPC.

    Args:
        admission: what decides whether a message is taken on.
        recorder: where each call is noted.
        codes: the table from exceptions to status codes.
        fan_out: what answers the calls that concern all processes; None where there is one.
        follows: whether calls know who called, and in which trace.

    Attributes:
        answers: of the unary methods of all services that were built, by path, such as
            "/inference.GRPCInferenceService/ModelInfer".
    """

    def __init__(
        self, admission: Admission, recorder: Recorder, codes: Codes, fan_out: FanOut | None = None, *, follows: bool = False
    ) -> None:
        self._admission = admission
        self._outcomes = Outcomes(recorder, codes)
        self._codes = codes
        self._fan_out = fan_out
        self._follows = follows
        self.answers: dict[str, Answer] = {}

    def service(
        self,
        descriptor: ServiceDescriptor,
        servicers: Sequence[object],
        codecs: Mapping[str, Codec | StreamCodec] | None = None,
    ) -> grpc.GenericRpcHandler:
        """Builds the method table of a service: each RPC that one of the servicers has a method for.

        What none has a method for, gRPC answers with UNIMPLEMENTED.

        Args:
            descriptor: the service.
            servicers: share the RPCs out among them: each has a coroutine method `(request, call) -> response` named like each
                RPC that it offers. Of an RPC that streams both ways it answers one message.
            codecs: by RPC, how requests are parsed and responses serialized; protobuf's way where not given. One that streams
                has to be given.
        """
        handlers = {
            method.name: self._handler(method, getattr(servicer, method.name), (codecs or {}).get(method.name))
            for method in descriptor.methods
            for servicer in servicers
            if hasattr(servicer, method.name)
        }
        return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)

    def unary(self, name: str, handler: Handler, codec: Codec) -> Answer:
        """Wraps a handler of single calls."""
        parse, serialize = codec
        admission, outcomes, follows = self._admission, self._outcomes, self._follows

        # One coroutine and few calls: with a core's caches full of gRPC's code, ours costs three times what it does alone.
        async def answer(data: bytes, context: Context) -> bytes | None:
            call = Call(name)
            call.admitted_bytes = len(data)
            if follows:
                call.peer = context.peer
                call.parent = parent(context.invocation_metadata())
            try:
                admission.enter(call.admitted_bytes)
                # Not before the answer has been written: until then the call is in flight, and a drain waits for it.
                context.add_done_callback(lambda _context: admission.leave(call.admitted_bytes))  # type: ignore[arg-type]
                call.deadline = _deadline(context)
                response = serialize(await handler(parse(data), call))
            except BaseException as error:  # noqa: BLE001 - this is the one place where every exception becomes a status
                refused = outcomes.failed(error, call, len(data))
            else:
                call.admitted_bytes += len(response)
                admission.hold(len(response))
                outcomes.succeeded(call, len(data), len(response))
                return response
            return await context.abort(refused.code, refused.text, refused.trailers)

        return answer

    def stream(self, method: StreamMethod) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Wraps a handler of the messages of a stream."""

        async def answer(_messages: object, context: Context) -> None:
            caller = (context.peer, parent(context.invocation_metadata())) if self._follows else (str, None)
            await Stream(context, method, self._admission, self._outcomes, *caller).run()

        return grpc.stream_stream_rpc_method_handler(answer)

    def _handler(
        self, method: MethodDescriptor, handler: Handler, codec: Codec | StreamCodec | None
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        if isinstance(codec, StreamCodec):
            return self.stream(StreamMethod(method.name, handler, codec))
        codec = codec or _protobuf(method)
        if self._fan_out is not None:
            handler, codec = self._fan_out.replaced(method.name, handler, codec, self._codes)
        answer = self.unary(method.name, handler, codec)
        self.answers[f"/{method.containing_service.full_name}/{method.name}"] = answer
        return grpc.unary_unary_rpc_method_handler(answer)


def _protobuf(method: Any) -> Codec:
    return GetMessageClass(method.input_type).FromString, GetMessageClass(method.output_type).SerializeToString


def _deadline(context: Context) -> float | None:
    remaining: float | None = cast("Any", context).time_remaining()  # None without a deadline, whatever its type says
    if remaining is None:
        return None
    if remaining <= 0:
        raise DeadlineExceededError("the deadline passed before the call was read")
    return now() + remaining
