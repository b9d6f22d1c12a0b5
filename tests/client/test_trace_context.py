import subprocess
import sys

from normserve.trace_context import with_trace
from opentelemetry.sdk.trace import TracerProvider


def test_without_a_current_span_nothing_is_added() -> None:
    assert with_trace(None) == ()
    assert with_trace({"authorization": "Bearer x"}) == (("authorization", "Bearer x"),)


def test_a_current_span_is_sent_along_and_what_the_caller_gives_wins() -> None:
    with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("caller") as span:
        context = span.get_span_context()
        sent = dict(with_trace({"authorization": "Bearer x"}))
        own = dict(with_trace({"traceparent": "mine"}))
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert sent == {"authorization": "Bearer x", "traceparent": traceparent}
    assert own == {"traceparent": "mine"}


def test_opentelemetry_is_not_imported_for_it() -> None:
    code = "import sys; from normserve.trace_context import with_trace; with_trace({}); print('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
