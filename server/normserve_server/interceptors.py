"""The door between gRPC and the handlers: admission, deadline, parsing, errors to status codes, metrics.

Handlers take a parsed request and a `Call`, and know nothing of gRPC. The door is built into the method table once, instead of
being a `grpc.aio.ServerInterceptor`, which would be looked up again for each call.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from normserve_server.admission import Admission
from normserve_server.calls import Call, now
from normserve_server.errors import DeadlineExceededError, ServiceError, status_of
from normserve_server.metrics import Metrics

if TYPE_CHECKING:
    from normserve_server.processes.fan_out import FanOut

Handler: TypeAlias = Callable[[Any, Call], Awaitable[Any]]
Codec: TypeAlias = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]

PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6: how long a client waits before it tries again; negative for never
MAX_TEXT_BYTES = 1024  # a text travels in the trailers, three bytes a byte at worst, which peers limit to 8 KiB

_log = structlog.get_logger(__name__)


class Door:
    """Wraps handlers for gRPC.

    Args:
        metrics: where each call is recorded.
        admission: what decides whether a message is taken on.
        fan_out: what answers the calls that concern all processes; None where there is one.
    """

    def __init__(self, metrics: Metrics, admission: Admission, fan_out: "FanOut | None" = None) -> None:
        self._metrics = metrics
        self._admission = admission
        self._fan_out = fan_out

    def service(
        self, descriptor: ServiceDescriptor, servicers: Sequence[object], codecs: dict[str, Codec] | None = None
    ) -> grpc.GenericRpcHandler:
        """Builds the method table of a service: each unary RPC that one of the servicers has a method for.

        What none has a method for, gRPC answers with UNIMPLEMENTED.

        Args:
            descriptor: the service.
            servicers: share the RPCs out among them: each has a coroutine method `(request, call) -> response` named like each
                RPC that it offers.
            codecs: by RPC, how requests are parsed and responses serialized; protobuf's way where not given.
        """
        table = {
            method.name: self.unary(
                method.name,
                *self._shared(
                    method.name, getattr(servicer, method.name), (codecs or {}).get(method.name) or _protobuf(method)
                ),
            )
            for method in descriptor.methods
            for servicer in servicers
            if hasattr(servicer, method.name)
        }
        return grpc.method_handlers_generic_handler(descriptor.full_name, table)

    def _shared(self, name: str, handler: Handler, codec: Codec) -> tuple[Handler, Codec]:
        return (handler, codec) if self._fan_out is None else self._fan_out.replaced(name, handler, codec, _told)

    def unary(self, name: str, handler: Handler, codec: Codec) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Wraps one handler."""

        async def answer(data: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
            call = Call(name)
            started = call.mark
            code = grpc.StatusCode.OK
            response = b""
            try:
                response = await self._admitted(handler, codec, data, context, call)
            except asyncio.CancelledError:
                code = _why_cancelled(call)
                raise
            except Exception as error:  # noqa: BLE001 - this is the one place where every exception becomes a status
                code, text = _refusal(error, call)
                await context.abort(code, text, _trailers(error))
            finally:
                if self._metrics.recording:  # later, so that the answer does not wait for it
                    asyncio.get_running_loop().call_soon(self._record, call, code, now() - started, len(data), len(response))
            return response

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _admitted(
        self, handler: Handler, codec: Codec, data: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]", call: Call
    ) -> bytes:
        parse, serialize = codec
        size = len(data)
        self._admission.enter(size)
        # Not before the answer has been written: until then the call is in flight, and a drain waits for it.
        written: Any = lambda _context: self._admission.leave(size)  # noqa: E731 - its declared type is no callable's
        context.add_done_callback(written)
        call.deadline = _deadline(context)
        response = serialize(await handler(parse(data), call))
        call.lap("encode")
        return response

    def _record(self, call: Call, code: grpc.StatusCode, seconds: float, bytes_in: int, bytes_out: int) -> None:
        series = self._metrics.series(call.model, call.version, call.method)
        series.count(code.name)
        series.duration.observe(seconds)
        series.bytes_in.inc(bytes_in)
        series.bytes_out.inc(bytes_out)
        self._metrics.observe(series, call.phases)


def _protobuf(method: Any) -> Codec:
    return GetMessageClass(method.input_type).FromString, GetMessageClass(method.output_type).SerializeToString


def _deadline(context: "grpc.aio.ServicerContext[bytes, bytes]") -> float | None:
    remaining: float | None = cast("Any", context).time_remaining()  # None without a deadline, whatever its type says
    if remaining is None:
        return None
    if remaining <= 0:
        raise DeadlineExceededError("the deadline passed before the call was read")
    return now() + remaining


def _why_cancelled(call: Call) -> grpc.StatusCode:
    """A handler is cancelled both when its caller leaves and when its deadline passes."""
    if call.deadline is not None and now() >= call.deadline:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _refusal(error: Exception, call: Call) -> tuple[grpc.StatusCode, str]:
    code, text = status_of(error)
    if code is grpc.StatusCode.INTERNAL:
        _log.error("call failed", method=call.method, model=call.model, version=call.version, exc_info=error)
    return code, _shortened(text)


def _told(error: Exception, call: Call) -> tuple[grpc.StatusCode, str, int | None]:
    return *_refusal(error, call), error.retry_after_ms if isinstance(error, ServiceError) else None


def _shortened(text: str) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= MAX_TEXT_BYTES else data[: MAX_TEXT_BYTES - 3].decode(errors="ignore") + "..."


def _trailers(error: Exception) -> tuple[tuple[str, str], ...]:
    wait = error.retry_after_ms if isinstance(error, ServiceError) else None
    return () if wait is None else ((PUSHBACK, str(wait)),)
