"""Spans of calls that the test makes up; tests/e2e/test_tracing.py has those of real ones."""

from itertools import chain

import grpc
import pytest
from normserve_server.calls import Batch, Call, now
from normserve_server.errors import STATUS_CODES
from normserve_server.metrics import Metrics
from normserve_server.outcomes import Outcomes
from normserve_server.recording import Recorder
from normserve_server.spans import APART, Spans
from normserve_server.statistics import Statistics
from normserve_server.trace_context import Parent
from normserve_server.tracing import Traces
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = Parent(TRACE, SPAN, 1, ""), Parent(TRACE, SPAN, 0, "")


class World:
    """Traces whose spans stay here."""

    def __init__(self, **settings: str) -> None:
        self.put: list[list[ReadableSpan]] = []
        spans = Spans(lambda spans: self.put.append(list(spans)), {"ModelInfer": "a.B/ModelInfer"}, "1.2", {"worker": 3})
        self.traces = Traces(spans)
        self.traces.update("", settings)

    def finish(self, call: Call, code: str = "OK") -> None:
        self.traces.note(call, grpc.StatusCode[code], now() - call.started)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in chain.from_iterable(self.put) if span.name == name]


def call(parent: Parent | None = None, batch: Batch | None = None) -> Call:
    made = Call("ModelInfer")
    made.model, made.version, made.statistics = "m", "1", Statistics()
    made.parent, made.batch, made.peer = parent, batch, lambda: "ipv6:%5B::1%5D:4711"
    for phase in ("decode", "queue", "compute", "encode"):
        made.lap(phase)
    made.samples = 2
    return made


def ended(batch: Batch) -> Batch:
    batch.ended, batch.samples = now(), 2 * batch.requests
    return batch


def test_a_call_that_was_picked_here_begins_a_trace() -> None:
    world = World(trace_rate="1")
    calls = call(), call()
    for one in calls:
        world.finish(one)
    spans = world.named("a.B/ModelInfer")
    assert [f"{span.context.trace_id:032x}" for span in spans] == [one.trace_id for one in calls]
    assert len({one.trace_id for one in calls}) == 2
    assert [span.parent for span in spans] == [None, None]
    assert spans[0].attributes.items() >= {"network.peer.address": "::1", "network.peer.port": 4711}.items()
    assert spans[0].resource.attributes.items() >= {"service.name": "normserve", "service.version": "1.2", "worker": 3}.items()


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs,zone=z")
    world = World(trace_rate="1")
    world.finish(call())
    (span,) = world.named("a.B/ModelInfer")
    assert span.resource.attributes.items() >= {"service.name": "theirs", "zone": "z", "worker": 3}.items()


def test_an_untraced_call_has_no_trace_id_and_makes_nothing() -> None:
    world = World(trace_rate="1")
    made = call(UNSAMPLED)
    world.finish(made)
    assert (made.trace_id, world.put) == (None, [])


def test_the_first_decision_counts() -> None:
    world = World(trace_rate="2")
    one, other = call(), call()
    for made in (one, other, one, other):
        world.traces.decide(made)
    assert (one.traced, other.traced) == (False, True)
    world.finish(one, "INTERNAL")
    world.finish(other, "INTERNAL")
    (span,) = world.named("a.B/ModelInfer")
    assert (f"{span.context.trace_id:032x}", span.status.status_code) == (other.trace_id, StatusCode.ERROR)
    assert span.attributes["error.type"] == "INTERNAL"


def test_a_batchs_span_comes_after_its_last_request_and_links_those_that_are_traced() -> None:
    world, batch = World(), ended(Batch(3, now()))
    for parent in (UNSAMPLED, SAMPLED, SAMPLED):
        assert not world.named("batch")
        world.finish(call(parent, batch))
    (span,) = world.named("batch")
    requests, computed = world.named("a.B/ModelInfer"), world.named("compute")
    assert [link.context for link in span.links] == [request.context for request in requests]
    assert [[link.context for link in one.links] for one in computed] == [[span.context]] * 2
    assert span.attributes["normserve.batch.size"] == 6
    assert span.status.status_code is StatusCode.UNSET
    assert 0 < span.start_time <= span.end_time < requests[0].end_time


def test_a_batch_of_untraced_requests_makes_nothing() -> None:
    world, batch = World(), ended(Batch(2, now()))
    for _ in range(2):
        world.finish(call(UNSAMPLED, batch))
    assert not world.put


def test_a_batch_that_ran_apart_says_so_and_one_whose_callers_left_has_an_end() -> None:
    world, batch, left = World(), ended(Batch(2, now())), Batch(2, now())
    batch.apart = True
    for one in (batch, batch, left, left):
        world.finish(call(SAMPLED, one), "CANCELLED")
    apart, empty = world.named("batch")
    assert (apart.status.status_code, apart.status.description) == (StatusCode.ERROR, APART)
    assert empty.end_time >= empty.start_time
    assert "normserve.batch.size" not in empty.attributes


async def test_a_bugs_line_names_the_trace_that_the_call_is_in() -> None:
    world = World(trace_rate="1")
    recorder = Recorder(Metrics(CollectorRegistry()), world.traces)
    failed = call()
    with capture_logs() as lines:
        Outcomes(recorder, STATUS_CODES).failed(ZeroDivisionError(), failed, 10)
    (line, _trace), (span,) = lines, world.named("a.B/ModelInfer")
    assert (line["event"], line["trace_id"]) == ("call failed", f"{span.context.trace_id:032x}")
