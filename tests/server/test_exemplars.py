"""Trace ids beside the buckets, in one process and through the supervisor's adding up."""

import json

import grpc
import pytest
from normserve_server import exemplars
from normserve_server.calls import Answered, Call
from normserve_server.metrics import Metrics
from normserve_server.recording import Recorder
from normserve_server.state import State, together, unpacked
from normserve_server.tracing import Traces
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest as plain
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed

TRACE = "0af7651916cd43dd8448eb211c80319c"
NAME = "normserve_request_duration_seconds"


def answered(trace_id: str | None, seconds: float, model: str = "m") -> Answered:
    call = Call("ModelInfer")
    call.model, call.version, call.trace_id = model, "1", trace_id
    return Answered(call, grpc.StatusCode.OK, seconds, 1, 1)


async def recorded(*calls: Answered) -> Metrics:
    metrics = Metrics(CollectorRegistry())
    recorder = Recorder(metrics, Traces())
    for call in calls:
        recorder.note(call)
    recorder.flush()
    return metrics


def found(metrics: Metrics) -> dict[str, tuple[str, float]]:
    """By le: the trace id and the seconds."""
    (family,) = (f for f in parsed(openmetrics(metrics.registry).decode()) if f.name == NAME)
    told = [(sample.labels["le"], sample.exemplar) for sample in family.samples if sample.exemplar]
    return {le: (exemplar.labels["trace_id"], exemplar.value) for le, exemplar in told}


async def test_a_traced_call_is_shown_beside_its_bucket() -> None:
    metrics = await recorded(answered(None, 0.002), answered(TRACE, 0.6), answered(None, 0.6))
    assert found(metrics) == {"0.75": (TRACE, 0.6)}
    assert TRACE not in plain(metrics.registry).decode()


async def test_a_call_on_a_bound_is_in_the_bucket_that_ends_there() -> None:
    assert found(await recorded(answered(TRACE, 0.75))) == {"0.75": (TRACE, 0.75)}


async def test_the_last_one_stays() -> None:
    assert found(await recorded(answered("a" * 32, 0.6), answered(TRACE, 0.7))) == {"0.75": (TRACE, 0.7)}


async def test_without_traces_there_are_none() -> None:
    metrics = await recorded(answered(None, 0.6))
    assert found(metrics) == {}
    assert metrics.exemplars.all() == []


async def test_they_go_with_their_version() -> None:
    metrics = await recorded(answered(TRACE, 0.6), answered(TRACE, 0.6, "other"))
    metrics.forget("m", "1")
    assert [one.model for one in metrics.exemplars.all()] == ["other"]


@pytest.mark.parametrize("first", [0, 1])
async def test_of_several_workers_the_latest_is_shown(first: int) -> None:
    """They travel in the workers' states, as JSON."""
    workers = [await recorded(answered("a" * 32, 0.6)), await recorded(answered(TRACE, 0.7))]
    states = [State(exemplars=list(worker.exemplars.all())) for worker in workers]
    states = [unpacked(json.dumps(json.loads(state.packed())).encode()) for state in states]
    whole = together([states[first], states[1 - first]])
    (family,) = (f for f in workers[0].registry.collect() if f.name == NAME)
    exemplars.attach(family, whole.exemplars)
    told = [sample for sample in family.samples if sample.exemplar]
    assert [(sample.labels["le"], sample.exemplar.labels) for sample in told] == [("0.75", {"trace_id": TRACE})]
