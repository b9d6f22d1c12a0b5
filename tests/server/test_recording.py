import asyncio

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normserve_server.calls import Answered, Call
from normserve_server.metrics import SECONDS, Metrics
from normserve_server.recording import FLUSH_SECONDS, MOST_NOTED, Recorder, observe_all
from normserve_server.statistics import Laps, Statistics
from normserve_server.tracing import Traces
from prometheus_client import CollectorRegistry, Histogram

OK, INTERNAL = grpc.StatusCode.OK, grpc.StatusCode.INTERNAL


def samples(registry: CollectorRegistry) -> dict[tuple, float]:
    return {
        (one.name, *sorted(one.labels.items())): one.value
        for family in registry.collect()
        for one in family.samples
        if one.value
    }


@given(st.lists(st.tuples(*[st.sampled_from(SECONDS) | st.floats(0, 100)] * 2)))
def test_many_are_observed_as_they_are_one_by_one(pairs: list[tuple[float, float]]) -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    together, alone = (
        [Histogram(name, "of seconds", buckets=SECONDS, registry=registry) for name in ("g", "h")] for registry in registries
    )
    observe_all(together, np.array(pairs).reshape(-1, 2).T)
    for pair in pairs:
        for histogram, amount in zip(alone, pair, strict=True):
            histogram.observe(amount)
    assert samples(registries[0]) == pytest.approx(samples(registries[1]))
    assert [key for key in samples(registries[0]) if "_sum" not in key[0]] == [
        key for key in samples(registries[1]) if "_sum" not in key[0]
    ]


def answered(code: grpc.StatusCode, statistics: Statistics, model: str = "net") -> Answered:
    call = Call("ModelInfer")
    call.model, call.version, call.statistics = model, "1", statistics
    call.lap_at("decode", call.started + 0.001)
    if code is OK:
        call.lap_at("queue", call.started + 0.501)
    call.samples, call.laps = (3, Laps(0.1, 0.2, 0.3)) if code is OK else (0, None)
    return Answered(call, code, 0.75, 100, 50)


async def test_what_was_noted_is_recorded_by_itself_and_once() -> None:
    registry, statistics = CollectorRegistry(), Statistics()
    recorder = Recorder(Metrics(registry), Traces())
    for code in (OK, INTERNAL, OK):
        recorder.note(answered(code, statistics))
    assert not statistics.success.count
    await asyncio.sleep(5 * FLUSH_SECONDS)
    assert statistics.success.count
    recorder.flush()
    key = (("method", "ModelInfer"), ("model", "net"), ("version", "1"))
    found = samples(registry)
    assert found["normserve_requests_total", ("code", "OK"), *key] == 2
    assert found["normserve_requests_total", ("code", "INTERNAL"), *key] == 1
    assert found["normserve_request_duration_seconds_count", *key] == 3
    assert found["normserve_request_duration_seconds_bucket", ("le", "0.75"), *key] == 3
    assert ("normserve_request_duration_seconds_bucket", ("le", "0.5"), *key) not in found
    assert found["normserve_request_bytes_total", *key] == 300
    assert found["normserve_phase_duration_seconds_sum", *key[:2], ("phase", "queue"), key[2]] == pytest.approx(1.0)
    assert found["normserve_phase_duration_seconds_count", *key[:2], ("phase", "decode"), key[2]] == 3
    assert (statistics.success.count, statistics.fail.count, statistics.samples) == (2, 1, 6)
    assert statistics.compute.infer.seconds == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("left", "phase"),
    [
        ([], "decode"),
        (["decode"], "compute"),  # nothing else than an inference queues as a phase of its own
        (["decode", "queue"], "queue"),  # its time was over before it ran
        (["decode", "queue", "compute"], "compute"),  # its caller left while it ran
    ],
)
async def test_a_call_that_nobody_waits_for_counts_under_the_phase_it_was_in(left: list, phase: str) -> None:
    registry = CollectorRegistry()
    recorder = Recorder(Metrics(registry), Traces())
    for reason in ("deadline", "cancelled", "deadline", ""):
        call = Call("ModelInfer")
        call.model, call.version, call.cut_short = "net", "1", reason
        for one in left:
            call.lap(one)
        recorder.note(Answered(call, grpc.StatusCode.CANCELLED, 0.1, 1, 0))
    recorder.flush()
    counts = {key[1:]: value for key, value in samples(registry).items() if key[0] == "normserve_requests_cut_short_total"}
    labels = (("method", "ModelInfer"), ("model", "net"), ("phase", phase))
    assert counts == {
        (*labels, ("reason", "deadline"), ("version", "1")): 2,
        (*labels, ("reason", "cancelled"), ("version", "1")): 1,
    }


async def test_a_call_may_go_on_after_it_was_noted() -> None:
    """Nobody waits for it any more, and its batch still runs."""
    statistics = Statistics()
    recorder = Recorder(Metrics(CollectorRegistry()), Traces())
    left = answered(INTERNAL, statistics)
    recorder.note(left)
    left.call.lap("compute")
    left.call.laps, left.call.ran_alone = Laps(0.1, 0.2, 0.3), True
    recorder.note(answered(OK, statistics))
    recorder.flush()
    assert (statistics.fail.count, statistics.success.count, statistics.executions) == (1, 1, 0)


async def test_models_are_kept_apart() -> None:
    registry = CollectorRegistry()
    recorder = Recorder(Metrics(registry), Traces())
    for model in ("a", "b", "a"):
        recorder.note(answered(OK, Statistics(), model))
    recorder.flush()
    counts = {dict(key[1:])["model"]: value for key, value in samples(registry).items() if key[0] == "normserve_requests_total"}
    assert counts == {"a": 2, "b": 1}


async def test_so_many_are_recorded_at_once() -> None:
    statistics = Statistics()
    recorder = Recorder(Metrics(CollectorRegistry()), Traces())
    for _ in range(MOST_NOTED - 1):
        recorder.note(answered(OK, statistics))
    await asyncio.sleep(0)
    assert not statistics.success.count
    for _ in range(2):
        recorder.note(answered(OK, statistics))
    await asyncio.sleep(0)
    assert statistics.success.count == MOST_NOTED + 1
    recorder.flush()
    assert statistics.success.count == MOST_NOTED + 1
