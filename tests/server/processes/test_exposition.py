"""The files of two workers, written by processes as the workers write them, added up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from normserve_server.processes.exposition import Merged, Processes
from normserve_server.state import State
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import mark_process_dead

BEGIN = """
import sys
from types import SimpleNamespace
from normserve_server.processes.worker import _record_by_slot
slot = int(sys.argv[1])
_record_by_slot(SimpleNamespace(slot=slot, settings=SimpleNamespace(metrics=True)))
from prometheus_client import CollectorRegistry
from normserve_server.metrics import Metrics, Queue
metrics = Metrics(CollectorRegistry())
"""
CALLED = """
ready = int(sys.argv[2])
series = metrics.series("m", "1", "ModelInfer")
series.count("OK")
series.duration.observe(0.001)
metrics.series("old", "1", "ModelInfer").count("OK")
metrics.series("", "", "ServerLive").count("OK")
metrics.model_ready.labels("m", "1").set(ready)
metrics.load_seconds.labels("m", "1").set(slot + 1)
metrics.queue("m", "1", Queue(slot + 1, slot + 1.0, 1 - slot))
for model in ("m", "old"):
    metrics.swaps.labels(model, "done").inc()
"""
BACK = """
for state in ("LOADING", "READY", "UNLOADING"):
    metrics.state("m", "1", state)
metrics.provided_by("m", "1", "CUDAExecutionProvider")
metrics.forget("m", "1")
metrics.state("m", "1", "READY")
metrics.provided_by("m", "1", "CPUExecutionProvider")
"""
OK = {"model": "m", "version": "1", "method": "ModelInfer", "code": "OK"}
M = {"model": "m", "version": "1"}


def write(folder: Path, slot: int, ready: int) -> None:
    run(folder, CALLED, slot, ready)


def run(folder: Path, script: str, *arguments: int) -> None:
    command = [sys.executable, "-c", BEGIN + script, *map(str, arguments)]
    subprocess.run(command, check=True, env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)})


@pytest.fixture
def registry(tmp_path: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Merged(tmp_path, lambda: State(models={"m/1": "READY"})))
    return registry


def test_counts_add_up_over_workers_and_over_their_deaths(tmp_path: Path, registry: CollectorRegistry) -> None:
    def counted() -> tuple[float | None, ...]:
        names = ("normserve_requests_total", "normserve_request_duration_seconds_count", "normserve_model_ready")
        labels = (OK, {name: OK[name] for name in (*M, "method")}, M)
        return tuple(registry.get_sample_value(name, label) for name, label in zip(names, labels, strict=True))

    write(tmp_path, 0, 1)
    write(tmp_path, 1, 0)
    assert counted() == (2, 2, 0)
    assert registry.get_sample_value("normserve_model_load_seconds", M) == 2
    mark_process_dead(1, tmp_path)
    assert counted() == (2, 2, 1)
    write(tmp_path, 1, 1)  # its replacement
    assert counted() == (3, 3, 1)
    assert len(list(tmp_path.glob("counter_*.db"))) == 2


def test_series_of_versions_that_are_gone_are_left_out(tmp_path: Path, registry: CollectorRegistry) -> None:
    write(tmp_path, 0, 1)
    assert registry.get_sample_value("normserve_requests_total", OK | {"model": "old"}) is None
    assert registry.get_sample_value("normserve_requests_total", OK | {"model": "", "version": "", "method": "ServerLive"}) == 1


def test_where_no_version_is_left_there_is_none_of_their_series(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    models = {sample.labels.get("model", "") for family in Merged(tmp_path, State).collect() for sample in family.samples}
    assert models == {""}


def test_a_version_that_comes_back_has_no_state_and_no_provider_of_before(tmp_path: Path, registry: CollectorRegistry) -> None:
    run(tmp_path, BACK, 0)
    samples = [sample for family in registry.collect() for sample in family.samples if sample.value]
    told = {sample.labels.get("state") or sample.labels.get("provider") for sample in samples}
    assert told == {"READY", "CPUExecutionProvider"}


def test_depths_add_up_and_of_ages_and_fullness_the_highest_counts(tmp_path: Path, registry: CollectorRegistry) -> None:
    write(tmp_path, 0, 1)
    write(tmp_path, 1, 1)
    queue = [registry.get_sample_value(f"normserve_queue_{name}", M) for name in ("depth", "oldest_seconds", "fullness_ratio")]
    assert queue == [3, 2, 1]


def test_series_of_a_model_without_a_version_stay_as_long_as_one_is_known(tmp_path: Path, registry: CollectorRegistry) -> None:
    write(tmp_path, 0, 1)
    assert registry.get_sample_value("normserve_model_swaps_total", {"model": "m", "outcome": "done"}) == 1
    assert registry.get_sample_value("normserve_model_swaps_total", {"model": "old", "outcome": "done"}) is None


def test_exemplars_come_with_the_state(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    traced = ["m", "1", "ModelInfer", "0.001", "a" * 32, 0.0009, 1.0]
    merged = Merged(tmp_path, lambda: State(models={"m/1": "READY"}, exemplars=[traced]))
    shown = [sample for family in merged.collect() for sample in family.samples if sample.exemplar]
    assert [(sample.name, sample.labels["le"]) for sample in shown] == [("normserve_request_duration_seconds_bucket", "0.001")]
    assert shown[0].exemplar.labels == {"trace_id": "a" * 32}


def test_a_file_that_is_just_being_made_is_read_again(tmp_path: Path, registry: CollectorRegistry) -> None:
    write(tmp_path, 0, 1)
    merged = Merged(tmp_path, State)
    empty = tmp_path / "counter_1.db"
    empty.touch()
    collected = merged._collected

    def then_written() -> object:
        try:
            return collected()
        finally:
            empty.unlink(missing_ok=True)

    merged._collected = then_written  # type: ignore[method-assign,assignment]
    assert {family.name for family in merged.collect()} >= {"normserve_requests"}


def test_each_process_is_shown() -> None:
    registry = CollectorRegistry()
    registry.register(Processes(lambda: {"0": os.getpid(), "1": 2**22 + 1}))  # the second has just died
    for worker in ("supervisor", "0"):
        assert (registry.get_sample_value("process_resident_memory_bytes", {"worker": worker}) or 0) > 1e6
    assert registry.get_sample_value("process_resident_memory_bytes", {"worker": "1"}) is None
