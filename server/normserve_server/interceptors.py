"""The door between gRPC and the handlers: admission, deadline, parsing, errors to status codes, metrics.

Handlers take a parsed request and a `Call`, and know nothing of gRPC. The door is built into the method table once, instead of
being a `grpc.aio.ServerInterceptor`, which would be looked up again for each call.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from normserve_server.trace_context import TRACEPARENT, Parent
from normserve_server.trace_context import parent as parent_of

Codec: TypeAlias = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]
Wrap: TypeAlias = Callable[..., "grpc.RpcMethodHandler[bytes, bytes]"]
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Door:
    """Wraps handlers for gRPC.

    Args:
        admission: what decides whether a message is taken on.
        recorder: where each call is noted.
        codes: the table from exceptions to status codes.
        fan_out: what answers the calls that concern all processes; None where there is one.
        follows: whether calls know who called, and in which trace.
    """

    def __init__(
        self, admission: Admission, recorder: Recorder, codes: Codes, fan_out: FanOut | None = None, *, follows: bool = False
    ) -> None:
        self._admission = admission
        self._outcomes = Outcomes(recorder, codes)
        self._codes = codes
        self._fan_out = fan_out
        self._follows = follows

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
        wraps = {
            method.name: self._wrap(method, getattr(servicer, method.name), (codecs or {}).get(method.name))
            for method in descriptor.methods
            for servicer in servicers
            if hasattr(servicer, method.name)
        }
        if self._follows:
            return _Following(descriptor.full_name, wraps)
        return grpc.method_handlers_generic_handler(descriptor.full_name, {name: wrap() for name, wrap in wraps.items()})

    def unary(
        self, name: str, handler: Handler, codec: Codec, parent: Parent | None = None
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Wraps a handler of single calls; of one call where it has a `parent`."""
        parse, serialize = codec
        admission, outcomes, follows = self._admission, self._outcomes, self._follows

        # One coroutine and few calls: with a core's caches full of gRPC's code, ours costs three times what it does alone.
        async def answer(data: bytes, context: Context) -> bytes | None:
            call = Call(name)
            call.admitted_bytes = len(data)
            if follows:
                call.peer = context.peer()
                if parent is not None:
                    call.parent = parent
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

        return grpc.unary_unary_rpc_method_handler(answer)

    def stream(self, method: StreamMethod, parent: Parent | None = None) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Wraps a handler of the messages of a stream; of one stream where it has a `parent`."""

        async def answer(_messages: object, context: Context) -> None:
            caller = (context.peer(), parent) if self._follows else ("", None)
            await Stream(context, method, self._admission, self._outcomes, *caller).run()

        return grpc.stream_stream_rpc_method_handler(answer)

    def _wrap(self, method: MethodDescriptor, handler: Handler, codec: Codec | StreamCodec | None) -> Wrap:
        if isinstance(codec, StreamCodec):
            return partial(self.stream, StreamMethod(method.name, handler, codec))
        codec = codec or _protobuf(method)
        if self._fan_out is not None:
            handler, codec = self._fan_out.replaced(method.name, handler, codec, self._codes)
        return partial(self.unary, method.name, handler, codec)


class _Following(grpc.GenericRpcHandler):
    """A method table that reads the caller's trace context where gRPC has the metadata at hand; asking it once more costs 1 us.

    Args:
        service: its full name.
        wraps: by RPC, what gives its handler, for any call or for the calls of one parent.
    """

    def __init__(self, service: str, wraps: Mapping[str, Wrap]) -> None:
        self._table = {f"/{service}/{name}": (wrap, wrap()) for name, wrap in wraps.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Finds the handler of a call; None where another table has to."""
        found = self._table.get(handler_call_details.method)
        if found is None:
            return None
        wrap, handler = found
        metadata = handler_call_details.invocation_metadata or ()
        for name, _ in metadata:
            if name == TRACEPARENT:
                return wrap(parent_of(metadata))
        return handler


def _protobuf(method: Any) -> Codec:
    return GetMessageClass(method.input_type).FromString, GetMessageClass(method.output_type).SerializeToString


def _deadline(context: Context) -> float | None:
    remaining: float | None = cast("Any", context).time_remaining()  # None without a deadline, whatever its type says
    if remaining is None:
        return None
    if remaining <= 0:
        raise DeadlineExceededError("the deadline passed before the call was read")
    return now() + remaining
