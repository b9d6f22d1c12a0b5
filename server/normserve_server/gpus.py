"""What the machine's NVIDIA GPUs do, as their driver tells whenever somebody reads the metrics; nothing where there is none."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import pynvml
import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

T = TypeVar("T")

PATIENCE_SECONDS = 1.0

_log = structlog.get_logger(__name__)

# By what is read: our name, Triton's name for the same, and what it is.
FAMILIES = {
    "utilization": (
        "normserve_gpu_utilization_ratio",
        "nv_gpu_utilization",
        "Share of the driver's last sampling period in which the GPU computed.",
    ),
    "memory_used": (
        "normserve_gpu_memory_used_bytes",
        "nv_gpu_memory_used_bytes",
        "Memory of the GPU that is taken, by anyone.",
    ),
    "memory_total": ("normserve_gpu_memory_total_bytes", "nv_gpu_memory_total_bytes", "Memory of the GPU."),
    "power": ("normserve_gpu_power_watts", "nv_gpu_power_usage", "What the GPU draws."),
}


class Reading(NamedTuple):
    """One GPU now. None where the driver does not tell, which some do not of power, and none does of a part of a GPU.

    Attributes:
        number: the driver's number.
        uuid: the driver's name, which stays when numbers change.
        utilization: from 0 to 1.
        memory_used: bytes; and `memory_total`.
        power: watts.
    """

    number: int
    uuid: str
    utilization: float | None
    memory_used: int | None
    memory_total: int | None
    power: float | None


class Gpus(Protocol):
    """What tells of the GPUs."""

    def read(self) -> Sequence[Reading]:
        """Asks all of them; may block for milliseconds."""


class Nvml:
    """NVIDIA's driver, by its management library."""

    def read(self) -> Sequence[Reading]:
        """Asks all GPUs; those that have gone meanwhile are left out."""
        return [_reading(index) for index in range(_told(pynvml.nvmlDeviceGetCount) or 0)]


def found() -> Gpus | None:
    """Opens the driver, for as long as the process lives; None where there is no driver or no GPU."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return Nvml() if _told(pynvml.nvmlDeviceGetCount) else None


def register(registry: CollectorRegistry) -> None:
    """Registers the machine's GPUs; nothing where there is none."""
    gpus = found()
    if gpus is not None:
        registry.register(GpuCollector(gpus))


class Aside:
    """Asks in a thread of its own: a driver that hangs keeps that one, and neither those that serve nor the process's end.

    Args:
        gpus: what is asked.
    """

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus
        self._lock = threading.Lock()
        self._thread = threading.Thread()
        self._readings: Sequence[Reading] = ()

    def read(self) -> Sequence[Reading]:
        """Asks all of them, for at most `PATIENCE_SECONDS`; while somebody else does: the last answer, or none if it hangs."""
        with self._lock:
            if self._thread.is_alive():
                return self._readings
            self._thread = thread = threading.Thread(target=self._ask, name="gpus", daemon=True)
            thread.start()
        thread.join(PATIENCE_SECONDS)
        if thread.is_alive():
            self._readings = ()
            _log.warning("the driver of the GPUs does not answer", seconds=PATIENCE_SECONDS)
        return self._readings

    def _ask(self) -> None:
        readings: Sequence[Reading] = ()
        try:
            readings = self._gpus.read()
        finally:
            self._readings = readings


class GpuCollector(Collector):
    """The GPUs' metrics.

    Args:
        gpus: what tells of them.
    """

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = Aside(gpus)

    def describe(self) -> Iterable[Metric]:
        """The families without samples, so that they can be asked for by name, as the page's history does."""
        return [GaugeMetricFamily(name, meaning) for ours, alias, meaning in FAMILIES.values() for name in (ours, alias)]

    def collect(self) -> Iterable[Metric]:
        """Asks the GPUs."""
        readings = self._gpus.read()
        for what, (name, alias, meaning) in FAMILIES.items():
            ours = GaugeMetricFamily(name, meaning, labels=("gpu", "gpu_uuid"))
            tritons = GaugeMetricFamily(alias, f"{name}, by Triton's name.", labels=("gpu_uuid",))
            for reading in readings:
                value = getattr(reading, what)
                if value is not None:
                    ours.add_metric((str(reading.number), reading.uuid), value)
                    tritons.add_metric((reading.uuid,), value)
            yield from (ours, tritons)


def _reading(index: int) -> Reading:
    gpu = _told(lambda: pynvml.nvmlDeviceGetHandleByIndex(index))
    if gpu is None:
        return Reading(index, "", None, None, None, None)
    memory = _told(lambda: pynvml.nvmlDeviceGetMemoryInfo(gpu))
    rates = _told(lambda: pynvml.nvmlDeviceGetUtilizationRates(gpu))
    milliwatts = _told(lambda: pynvml.nvmlDeviceGetPowerUsage(gpu))
    return Reading(
        index,
        str(_told(lambda: pynvml.nvmlDeviceGetUUID(gpu)) or ""),
        None if rates is None else rates.gpu / 100,
        None if memory is None else memory.used,
        None if memory is None else memory.total,
        None if milliwatts is None else milliwatts / 1000,
    )


def _told(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except pynvml.NVMLError:
        return None
