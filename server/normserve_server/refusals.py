"""What a caller is told of an exception: the status code, a text that fits into trailers, and when to come back."""

from dataclasses import dataclass

import grpc
import structlog

from normserve_server import access
from normserve_server.calls import Call
from normserve_server.errors import Codes, ModelLoadError, RelayedError, ServiceError, status_of

PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6: how long a client waits before it tries again; negative for never
MAX_TEXT_BYTES = 1024  # a text travels in the trailers, three bytes a byte at worst, which peers limit to 8 KiB

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An exception as gRPC's callers see it.

    Attributes:
        code: not OK.
        text: what was wrong; at most `MAX_TEXT_BYTES`.
        trailers: metadata that goes with them.
    """

    code: grpc.StatusCode
    text: str
    trailers: tuple[tuple[str, str], ...] = ()


def refusal(error: Exception, call: Call, codes: Codes) -> Refusal:
    """Turns an exception into what the caller is told; a bug goes to the log.

    Args:
        error: whatever a handler raised.
        call: whose it was.
        codes: the table of status codes.
    """
    code, text = status_of(error, codes)
    if code is grpc.StatusCode.INTERNAL and not isinstance(error, ModelLoadError | RelayedError):  # which have been logged
        names = {"method": call.method, "model": call.model, "version": call.version}
        _log.error("call failed", **names, **access.trace(call), exc_info=error)
    return Refusal(code, _shortened(text), _trailers(error))


def _shortened(text: str) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= MAX_TEXT_BYTES else data[: MAX_TEXT_BYTES - 3].decode(errors="ignore") + "..."


def _trailers(error: Exception) -> tuple[tuple[str, str], ...]:
    wait = error.retry_after_ms if isinstance(error, ServiceError) else None
    return () if wait is None else ((PUSHBACK, str(wait)),)
