import pytest
from hypothesis import given
from hypothesis import strategies as st
from normserve_server.trace_context import Parent, parent
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def read(traceparent: str) -> Parent | None:
    return parent([("user-agent", "x"), ("traceparent", traceparent)])


def test_a_trace_context_is_read() -> None:
    metadata = [("tracestate", "a=1"), ("traceparent", f"00-{TRACE}-{SPAN}-01"), ("x-bin", b"\0"), ("tracestate", "b=2")]
    assert parent(metadata) == Parent(TRACE, SPAN, 1, "a=1,b=2")
    assert read(f"00-{TRACE}-{SPAN}-00") == Parent(TRACE, SPAN, 0, "")
    assert [read(f"00-{TRACE}-{SPAN}-{flags}").sampled for flags in ("00", "01", "02", "03")] == [False, True, False, True]
    assert read(f"01-{TRACE}-{SPAN}-01-what-is-to-come") == Parent(TRACE, SPAN, 1, "")


def test_without_one_there_is_none() -> None:
    assert parent(None) is None
    assert parent([("tracestate", "a=1")]) is None
    assert parent([("traceparent", b"bytes")]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
    ],
)
def test_a_malformed_one_is_none(text: str) -> None:
    assert read(text) is None


@given(st.from_regex(r"[0-9a-fA-Fg]{1,3}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-x)?", fullmatch=True))
def test_it_is_read_as_opentelemetry_reads_it(text: str) -> None:
    context = TraceContextTextMapPropagator().extract({"traceparent": text})
    theirs, ours = trace.get_current_span(context).get_span_context(), read(text)
    assert (ours is not None) == theirs.is_valid
    if ours is not None:
        assert (int(ours.trace_id, 16), int(ours.span_id, 16), ours.flags) == (
            theirs.trace_id,
            theirs.span_id,
            theirs.trace_flags,
        )
