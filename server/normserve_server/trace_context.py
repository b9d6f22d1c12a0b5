"""The caller's place in a trace, which W3C's Trace Context puts into a call's metadata: `traceparent` and `tracestate`."""

import re
from collections.abc import Iterable
from typing import NamedTuple

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
SAMPLED = 1  # the bit of the flags

# Version, trace, span, flags; a version that is newer than 00 may have more behind them.
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Parent(NamedTuple):
    """What the caller's process was at when it called.

    Attributes:
        trace_id: 32 hexadecimal digits; `span_id`, 16 of them.
        flags: 8 bits, of which `SAMPLED` is one.
        state: what tracing systems pass on, as it came.
    """

    trace_id: str
    span_id: str
    flags: int
    state: str

    @property
    def sampled(self) -> bool:
        """Whether the caller's part is traced."""
        return bool(self.flags & SAMPLED)


def parent(metadata: Iterable[tuple[str, str | bytes]] | None) -> Parent | None:
    """Reads a call's metadata; None where it has no trace context, or one that is malformed."""
    for key, value in metadata or ():
        if key == TRACEPARENT:
            return _read(value, metadata or ())
    return None


def _read(traceparent: str | bytes, metadata: Iterable[tuple[str, str | bytes]]) -> Parent | None:
    form = _FORM.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if form is None or (form[1] == "00" and form[5]):
        return None
    return Parent(form[2], form[3], int(form[4], 16), ",".join(str(value) for key, value in metadata if key == TRACESTATE))
