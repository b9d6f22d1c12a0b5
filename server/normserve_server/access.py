"""What a log line tells of a call that has ended, and the access log: such a line for every call.

Its lines are made for many calls at once. They are made on the event loop, where one by one they would cost five times as much.
"""

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from normserve_server.calls import TOTAL, Answered, Call, Times, now

MAX_ID_CHARACTERS = 256


def lines(calls: Sequence[Answered], times: Times, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Gives the lines of the access log.

    Args:
        calls: at least one; to one version by one method, that ended with one code after the same phases.
        times: that they took.
        common: what all lines have.
    """
    first = calls[0].call
    same = {**common, "event": "access", "model": first.model, "version": first.version, "method": first.method}
    columns: dict[str, Iterable[Any]] = {
        **{name: itertools.repeat(value) for name, value in {**same, "code": calls[0].code.name}.items()},
        "timestamp": _ends(calls),
        "id": [one.call.request_id[:MAX_ID_CHARACTERS] for one in calls],
        **dict(zip([f"{part}_us" for part in times.parts], (times.seconds * 1e6).round(1).tolist(), strict=True)),
        "peer": [readable(one.call.peer) for one in calls],
    }
    names, rows = tuple(columns), zip(*columns.values(), strict=False)  # of what is repeated there is no end
    return [_completed(dict(zip(names, row, strict=True)), one.call) for one, row in zip(calls, rows, strict=False)]


def told(call: Call, code: str, seconds: float) -> dict[str, Any]:
    """Gives the fields of a line: what the call was, how it ended, and its phases and the whole in microseconds."""
    times = {f"{part}_us": round(time * 1e6, 1) for part, time in {**call.phases(), TOTAL: seconds}.items()}
    return _named(call, code) | times | trace(call)


def trace(call: Call) -> dict[str, str]:
    """Gives the field that leads from a call's lines to its trace, ours or its caller's; nothing where there is none."""
    trace_id = call.trace_id or (call.parent.trace_id if call.parent is not None else None)
    return {} if trace_id is None else {"trace_id": trace_id}


@lru_cache(1024)
def readable(peer: str) -> str:
    """Gives "host:port" for what gRPC calls a peer, such as "ipv6:%5B::1%5D:4711"."""
    kind, _, address = peer.partition(":")
    return unquote(address) if kind in {"ipv4", "ipv6"} else peer


def _named(call: Call, code: str) -> dict[str, str]:
    names = {"model": call.model, "version": call.version, "method": call.method}
    return names | {"id": call.request_id[:MAX_ID_CHARACTERS], "code": code}


def _completed(fields: dict[str, Any], call: Call) -> dict[str, Any]:
    """With what not every line has."""
    size = call.samples if call.batch is None else call.batch.samples
    if size:
        fields["batch_size"] = size
    if call.trace_id is not None or call.parent is not None:
        fields |= trace(call)
    return fields


def _ends(calls: Sequence[Answered]) -> list[str]:
    """The dates of the ends, as ISO 8601 has them."""
    to_unix = time.time() - now()
    ends = [divmod(round((one.call.started + one.seconds + to_unix) * 1e6), 1_000_000) for one in calls]
    dates = {second: datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S") for second in {end[0] for end in ends}}
    return [f"{dates[second]}.{microseconds:06}Z" for second, microseconds in ends]
