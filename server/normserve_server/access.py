"""What a log line tells of a call that has ended, and the access log: such a line for every call."""

from typing import Any
from urllib.parse import unquote

import structlog

from normserve_server.calls import Call

MAX_ID_CHARACTERS = 256


class AccessLog:
    """Writes a line for each call; to be made once logs are configured."""

    def __init__(self) -> None:
        self._log = structlog.get_logger(__name__).bind()  # or it would be bound for each line, a quarter of the line's time

    def write(self, call: Call, code: str, seconds: float) -> None:
        """Writes a call's line.

        Args:
            call: it has ended.
            code: the name of its status.
            seconds: that it took.
        """
        size = call.samples if call.batch is None else call.batch.samples
        more = {"batch_size": size} if size else {}
        self._log.info("access", **told(call, code, seconds), **more, peer=readable(call.peer))


def told(call: Call, code: str, seconds: float) -> dict[str, Any]:
    """Gives the fields of a line: what the call was, how it ended, and its phases and the whole in microseconds."""
    phases = {f"{phase}_us": _microseconds(time) for phase, time in call.phases().items()}
    names = {"model": call.model, "version": call.version, "method": call.method, "id": call.request_id[:MAX_ID_CHARACTERS]}
    return names | {"code": code} | phases | {"total_us": _microseconds(seconds)} | trace(call)


def trace(call: Call) -> dict[str, str]:
    """Gives the field that leads from a call's lines to its trace, ours or its caller's; nothing where there is none."""
    trace_id = call.trace_id or (call.parent.trace_id if call.parent is not None else None)
    return {} if trace_id is None else {"trace_id": trace_id}


def readable(peer: str) -> str:
    """Gives "host:port" for what gRPC calls a peer, such as "ipv6:%5B::1%5D:4711"."""
    kind, _, address = peer.partition(":")
    return unquote(address) if kind in {"ipv4", "ipv6"} else peer


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 1)
