"""The caller's trace, where OpenTelemetry is at work in its process: sent along, so that the server's spans hang below it."""

import sys
from collections.abc import Mapping

Metadata = Mapping[str, str | bytes]


def with_trace(metadata: Metadata | None) -> tuple[tuple[str, str | bytes], ...]:
    """Gives a call's metadata, with what OpenTelemetry's propagators add to it.

    Where the process has not imported OpenTelemetry, or no span is current, nothing is added. What the caller gives wins.

    Args:
        metadata: of the call, as the caller gave it.
    """
    given = metadata or {}
    trace = sys.modules.get("opentelemetry.trace")
    current = getattr(trace, "get_current_span", None)  # another thread may be at importing it
    if current is None or not current().get_span_context().is_valid:
        return tuple(given.items())
    from opentelemetry import propagate  # noqa: PLC0415 - not ours to import before the caller does

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    added = {name.lower(): value for name, value in carrier.items()}  # gRPC takes no capitals
    return tuple((added | dict(given)).items())
