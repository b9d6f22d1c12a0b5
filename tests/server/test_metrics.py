"""What is recorded, and that nothing is where nothing is to be."""

from pathlib import Path

import grpc
from normserve_server import service_metrics
from normserve_server.calls import Answered, Call
from normserve_server.errors import CODES, status_of
from normserve_server.metrics import FAULTS, Metrics
from normserve_server.recording import Recorder
from normserve_server.state import State
from normserve_server.tracing import Traces
from prometheus_client import CollectorRegistry, generate_latest

RECORDING = (Path(__file__).parents[2] / "deploy/prometheus/rules/recording.yml").read_text()


def write(written: Metrics) -> None:
    series = written.series("m", "1", "ModelInfer")
    series.count("OK")
    series.duration.observe(1)
    series.bytes_in.inc(5)
    series.phases["queue"].observe(0.5)
    written.batch_size.labels("m", "1").observe(3)
    written.model_ready.labels("m", "1").set(1)


def test_off_means_that_nothing_is_recorded() -> None:
    registry = CollectorRegistry()
    write(Metrics(registry, recording=False))
    values = {sample.value for family in registry.collect() for sample in family.samples}
    assert values <= {0.0}


async def test_calls_are_not_recorded_either() -> None:
    registry = CollectorRegistry()
    recorder = Recorder(Metrics(registry, recording=False), Traces())
    call = Call("ModelInfer")
    call.model = "m"
    recorder.note(Answered(call, grpc.StatusCode.OK, 0.1, 5, 5))
    recorder.flush()
    assert {sample.value for family in registry.collect() for sample in family.samples} <= {0.0}


def test_on_means_that_it_is() -> None:
    registry = CollectorRegistry()
    write(Metrics(registry))
    values = [sample.value for family in registry.collect() for sample in family.samples if sample.labels.get("model") == "m"]
    assert {1.0, 5.0, 0.5, 3.0} <= set(values)


def test_the_servers_faults_are_counted_from_zero() -> None:
    registry = CollectorRegistry()
    write(Metrics(registry))
    counts = {s.labels["code"]: s.value for f in registry.collect() for s in f.samples if s.name == "normserve_requests_total"}
    assert counts == {"OK": 1, **dict.fromkeys(FAULTS, 0)}
    faults = set(RECORDING.partition('code=~"')[2].partition('"')[0].split("|"))
    given = {code.name for codes in CODES.values() for code in codes.values()} | {status_of(Exception())[0].name}
    assert set(FAULTS) == faults & given


def test_a_version_that_is_loaded_again_has_one_provider() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.provided_by("m", "2", "torch")
    for provider in ("CUDAExecutionProvider", "CPUExecutionProvider"):
        metrics.provided_by("m", "1", provider)
    shown = [(*s.labels.values(), s.value) for family in metrics.provider.collect() for s in family.samples]
    assert sorted(shown) == [
        ("m", "1", "CPUExecutionProvider", 1),
        ("m", "1", "CUDAExecutionProvider", 0),
        ("m", "2", "torch", 1),
    ]


def test_what_is_in_flight_is_asked_for_when_it_is_shown() -> None:
    registry = CollectorRegistry()
    now = [State(calls=1, size=10)]
    service_metrics.in_flight(registry, lambda: now[0])
    now[0] = State(calls=2, size=20)
    text = generate_latest(registry).decode()
    assert "normserve_requests_in_flight 2.0" in text
    assert "normserve_admitted_bytes 20.0" in text
