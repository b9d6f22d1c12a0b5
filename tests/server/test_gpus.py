"""What is exported of GPUs that do not exist. Nothing here needs a driver."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from metrics_table import documented, exported
from normserve_server import gpus
from normserve_server.gpus import GpuCollector, Nvml, Reading
from normserve_server.http import overview
from normserve_server.http.history import History
from normserve_server.http.readings import NAMES, read
from prometheus_client import CollectorRegistry

BIG = Reading(0, "GPU-a", 0.25, 3 * 2**30, 80 * 2**30, 123.5)
SILENT = Reading(1, "MIG-b", None, 5, 10, None)


class Fake:
    def read(self) -> list[Reading]:
        return [BIG, SILENT]


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(GpuCollector(Fake()))
    return registry


def test_the_documented_metrics_are_the_exported_ones(registry: CollectorRegistry) -> None:
    wanted = {name: row for name, row in documented().items() if "gpu_" in name}
    assert exported(registry.collect()) == wanted
    assert len(wanted) == 8


def test_each_gpu_is_told_apart_and_triton_s_names_say_the_same(registry: CollectorRegistry) -> None:
    ours, tritons = {"gpu": "0", "gpu_uuid": "GPU-a"}, {"gpu_uuid": "GPU-a"}
    for (name, alias, _), value in zip(gpus.FAMILIES.values(), (0.25, 3 * 2**30, 80 * 2**30, 123.5), strict=True):
        assert registry.get_sample_value(name, ours) == registry.get_sample_value(alias, tritons) == value


def test_what_a_driver_does_not_tell_has_no_series(registry: CollectorRegistry) -> None:
    assert registry.get_sample_value("normserve_gpu_memory_used_bytes", {"gpu": "1", "gpu_uuid": "MIG-b"}) == 5
    for name in ("normserve_gpu_power_watts", "normserve_gpu_utilization_ratio"):
        assert registry.get_sample_value(name, {"gpu": "1", "gpu_uuid": "MIG-b"}) is None


class Hanging:
    """Answers once the test lets it."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked = 0

    def read(self) -> list[Reading]:
        self.asked += 1
        assert self.go.wait(30)
        return [BIG]


def test_a_driver_that_hangs_holds_up_one_scrape_and_then_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "PATIENCE_SECONDS", 0.01)
    hanging, registry = Hanging(), CollectorRegistry()
    registry.register(GpuCollector(hanging))

    def used() -> float | None:
        return registry.get_sample_value("nv_gpu_utilization", {"gpu_uuid": "GPU-a"})

    assert used() is None
    monkeypatch.setattr(gpus, "PATIENCE_SECONDS", 30.0)
    assert [used() for _ in range(20)] == [None] * 20
    assert hanging.asked == 1
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "gpus")
    hanging.go.set()
    thread.join()
    assert used() == 0.25
    assert hanging.asked == 2
    hanging.go.clear()
    monkeypatch.setattr(gpus, "PATIENCE_SECONDS", 0.01)
    assert used() is None  # and not what was so before
    hanging.go.set()


def test_a_driver_that_hangs_does_not_hold_up_the_end() -> None:
    script = """
import time
from normserve_server import gpus
class Hanging:
    def read(self):
        time.sleep(1e6)
gpus.PATIENCE_SECONDS = 0.01
list(gpus.GpuCollector(Hanging()).collect())
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def refuse(*_: object) -> None:
    raise gpus.pynvml.NVMLError(gpus.pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_nothing_is_registered_without_a_driver_or_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr(gpus.pynvml, "nvmlInit", refuse)
    gpus.register(registry)
    monkeypatch.setattr(gpus.pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(gpus.pynvml, "nvmlDeviceGetCount", lambda: 0)
    gpus.register(registry)
    assert list(registry.collect()) == []


def test_the_driver_s_units_are_made_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=3, total=8),
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=25, memory=1),
        "nvmlDeviceGetPowerUsage": lambda _: 123500,
        "nvmlDeviceGetUUID": lambda _: "GPU-a",
    }
    for name, answer in told.items():
        monkeypatch.setattr(gpus.pynvml, name, answer)
    assert Nvml().read() == [Reading(0, "GPU-a", 0.25, 3, 8, 123.5)]
    monkeypatch.setattr(gpus.pynvml, "nvmlDeviceGetPowerUsage", refuse)
    assert Nvml().read()[0].power is None


def test_they_can_be_asked_for_by_name(registry: CollectorRegistry) -> None:
    """As the page's history does, which does not read everything."""
    asked = registry.restricted_registry(["nv_gpu_utilization"])
    assert [sample.value for family in asked.collect() for sample in family.samples] == [0.25]


def test_the_page_shows_them(registry: CollectorRegistry) -> None:
    history = History()
    history.add(read(registry.restricted_registry(NAMES).collect(), history.columns), 1.0)
    first, second = overview.window(history, 1, "")["gpus"]
    assert (first["uuid"], first["utilization"], first["power_usage"]) == ("GPU-a", 0.25, 123.5)
    assert (second["uuid"], second["utilization"], second["memory_used_bytes"]) == ("MIG-b", None, 5)
