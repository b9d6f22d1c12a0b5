"""What a log line tells of a call that has ended, and the access log: such a line for every call.

Its lines are made for many calls at once, column by column and as text right away. They are made on the event loop, where
one by one they would cost sixteen times as much.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

import grpc
import numpy as np
import orjson
from numpy.typing import NDArray

from normserve_server import logs
from normserve_server.calls import TOTAL, Call, Times, now

MAX_ID_CHARACTERS = 256
_COLUMN = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z


class Told(NamedTuple):
    """What the access log tells of one call only, besides numbers.

    Attributes:
        request_id: what the caller named the request.
        peer: the caller's address as gRPC writes it.
        trace_id: of its trace, ours or its caller's; None where it is in none.
    """

    request_id: str
    peer: str
    trace_id: str | None


def lines(
    first: Call,
    code: grpc.StatusCode,
    calls: Sequence[Told],
    started: NDArray[np.float64],
    samples: NDArray[np.float64],
    times: Times,
    common: Mapping[str, Any],
) -> bytes:
    """Gives the lines of the access log, each an object of JSON that begins with its timestamp.

    Args:
        first: a call to the version and by the method that all of them have in common, as they have what they left.
        code: how they ended.
        calls: n of them, at least one.
        started: when they came, by `now`, shape [n].
        samples: how many ran together with each, shape [n]; 0 where nothing ran.
        times: that they took.
        common: what all lines have, but for their moment.
    """
    names = {"model": first.model, "version": first.version, "method": first.method, "code": code.name}
    same = logs.as_json({**common, "event": "access", **names}).decode()[1:-1]
    ids, peers, traces = zip(*calls, strict=True)
    columns = {
        "timestamp": _column(_dates(started + times.seconds[times.parts.index(TOTAL)])),
        "id": _texts([request_id[:MAX_ID_CHARACTERS] for request_id in ids]),
        **dict(zip([f"{part}_us" for part in times.parts], map(_column, (times.seconds * 1e6).round(1)), strict=True)),
        "peer": _texts(list(map(readable, peers))),
        **({"batch_size": _column(samples.astype(np.int64))} if samples.any() else {}),
    }
    ends = ["}\n" if trace_id is None else f',"trace_id":"{trace_id}"}}\n' for trace_id in traces]
    before = [f',"{name}":' for name in columns]
    before[0], before[1] = '{"timestamp":', f",{same}{before[1]}"
    parts = [part for name, column in zip(before, columns.values(), strict=True) for part in (itertools.repeat(name), column)]
    return "".join(itertools.chain.from_iterable(zip(*parts, ends, strict=False))).encode()  # of what is repeated is no end


def told(call: Call, code: str, seconds: float) -> dict[str, Any]:
    """Gives the fields of a line: what the call was, how it ended, and its phases and the whole in microseconds."""
    times = {f"{part}_us": round(time * 1e6, 1) for part, time in {**call.phases(), TOTAL: seconds}.items()}
    return _named(call, code) | times | trace(call)


def trace(call: Call) -> dict[str, str]:
    """Gives the field that leads from a call's lines to its trace, ours or its caller's; nothing where there is none."""
    found = trace_id(call)
    return {} if found is None else {"trace_id": found}


def trace_id(call: Call) -> str | None:
    """Gives a call's trace, ours or its caller's: 32 hexadecimal digits; None where it is in none."""
    return call.trace_id or (call.parent.trace_id if call.parent is not None else None)


@lru_cache(1024)
def readable(peer: str) -> str:
    """Gives "host:port" for what gRPC calls a peer, such as "ipv6:%5B::1%5D:4711"."""
    kind, _, address = peer.partition(":")
    return unquote(address) if kind in {"ipv4", "ipv6"} else peer


def _named(call: Call, code: str) -> dict[str, str]:
    names = {"model": call.model, "version": call.version, "method": call.method}
    return names | {"id": call.request_id[:MAX_ID_CHARACTERS], "code": code}


def _dates(moments: NDArray[np.float64]) -> NDArray[np.datetime64]:
    dates: NDArray[np.datetime64] = ((moments + (time.time() - now())) * 1e6).round().astype("datetime64[us]")
    return dates


def _column(values: NDArray[Any]) -> list[str]:
    """Numbers, or dates as ISO 8601 has them, as JSON: without an object of Python for each."""
    return orjson.dumps(np.ascontiguousarray(values), option=_COLUMN).decode()[1:-1].split(",")


def _texts(values: Sequence[str]) -> list[str]:
    """Texts as JSON, taken apart where JSON has a line's end within none."""
    return orjson.dumps(values, option=orjson.OPT_INDENT_2)[4:-2].decode().split(",\n  ")
