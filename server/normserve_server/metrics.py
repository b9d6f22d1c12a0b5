"""What Prometheus scrapes: one object, built once, that knows every metric's name, labels and unit.

Durations are seconds from a monotonic clock. A request for an unknown model has empty `model` and `version` labels, so that
nobody can grow the number of series from outside.

With several worker processes each writes its own files, which the supervisor adds up; a gauge says in `multiprocess_mode` how.
"""

import functools
import importlib.metadata
import platform
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics

from normserve_server.state import State
from normserve_server.unrecorded import UnrecordedCounter, UnrecordedGauge, UnrecordedHistogram

PHASES = ("decode", "queue", "compute", "encode")

# 100 us to 30 s: steps of about 1.5 to 2.5, so that a percentile read off the histogram is within its bucket.
SECONDS = (
    1e-4, 1.5e-4, 2e-4, 3e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 1e-2, 1.5e-2, 2e-2, 3e-2,
    5e-2, 7.5e-2, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Key:
    """The labels of a request's series."""

    model: str
    version: str
    method: str


class RequestSeries:
    """The series of one key, looked up once: finding a labelled child costs more than writing to it."""

    def __init__(self, metrics: "Metrics", key: Key) -> None:
        labels = (key.model, key.version, key.method)
        self._requests = metrics.requests
        self._labels = labels
        self._codes: dict[str, Counter] = {}
        self.duration = metrics.request_seconds.labels(*labels)
        self.bytes_in = metrics.request_bytes.labels(*labels)
        self.bytes_out = metrics.response_bytes.labels(*labels)
        self.phases = {phase: metrics.phase_seconds.labels(*labels, phase) for phase in PHASES}
        self._batch_size = metrics.batch_size

    @functools.cached_property
    def batch_size(self) -> Histogram:
        """The samples that ran together for the version; only asked for where something ran, or calls of no model had one."""
        return self._batch_size.labels(*self._labels[:2])

    def count(self, code: str, requests: int = 1) -> None:
        """Counts answered requests under their status code."""
        counter = self._codes.get(code)
        if counter is None:
            counter = self._codes[code] = self._requests.labels(*self._labels, code)
        counter.inc(requests)


class Metrics:
    """Every metric that is written while calls are served, registered in `registry`.

    Args:
        registry: where the metrics are registered; one `Metrics` for each registry.
        recording: whether anything is recorded.

    Attributes:
        recording: likewise.
    """

    def __init__(self, registry: CollectorRegistry, *, recording: bool = True) -> None:
        self.recording = recording
        counter = Counter if recording else UnrecordedCounter
        gauge = Gauge if recording else UnrecordedGauge
        histogram = Histogram if recording else UnrecordedHistogram
        disable_created_metrics()  # type: ignore[no-untyped-call] # a series a series, that nothing here reads
        self.registry = registry
        key = ("model", "version", "method")
        self.requests = counter(
            "normserve_requests", "Requests answered, by gRPC status code.", (*key, "code"), registry=registry
        )
        self.request_seconds = histogram(
            "normserve_request_duration_seconds",
            "From the message's arrival to its answer's last byte handed to gRPC.",
            key,
            buckets=SECONDS,
            registry=registry,
        )
        self.phase_seconds = histogram(
            "normserve_phase_duration_seconds",
            "A request's time in each phase: decode and validate, wait in the queue, compute, encode.",
            (*key, "phase"),
            buckets=SECONDS,
            registry=registry,
        )
        self.request_bytes = counter(
            "normserve_request_bytes", "Size of the request messages.", key, unit="bytes", registry=registry
        )
        self.response_bytes = counter(
            "normserve_response_bytes", "Size of the response messages.", key, unit="bytes", registry=registry
        )
        model = ("model", "version")
        self.batch_size = histogram(
            "normserve_batch_size",
            "Samples that ran together.",
            model,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.model_ready = gauge(
            "normserve_model_ready",
            "1 where the version serves, else 0.",
            model,
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.load_seconds = gauge(
            "normserve_model_load_seconds",
            "Time from finding the version to serving it: fold, prove, open, warm up.",
            model,
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.batch_norms = gauge(
            "normserve_model_batch_norms",
            "Batch norms of the model's file that were folded away, and that were left in the graph.",
            (*model, "state"),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.fold_error = gauge(
            "normserve_model_fold_error",
            "The largest relative error of an output against float64, of the folded file and of the file as it came.",
            (*model, "file"),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.provider = gauge(
            "normserve_model_provider_info",
            "1 for the onnxruntime execution provider that the version's session really got.",
            (*model, "provider"),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.normalizer_updates = counter(
            "normserve_normalizer_updates", "Updates of normalizers' statistics that are on the disk.", registry=registry
        )
        self.normalizer_group_seconds = histogram(
            "normserve_normalizer_group_duration_seconds",
            "From the beginning of a group of calls to normalizers, through their transaction's commit, to its end.",
            buckets=SECONDS,
            registry=registry,
        )
        self.spans = counter(
            "normserve_trace_spans",
            "Spans for the OpenTelemetry collector: exported, failed, or dropped because too many waited.",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("exported", "failed", "dropped"):  # from the start, so that the first one is a rise
            self.spans.labels(outcome)
        self._series: dict[Key, RequestSeries] = {}

    def series(self, model: str, version: str, method: str) -> RequestSeries:
        """The request series of one model, version and method; model and version are empty where there is none."""
        key = Key(model, version, method)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = RequestSeries(self, key)
        return series

    def forget(self, model: str, version: str) -> None:
        """Ends the series of a version that is gone, so that versions that come and go do not add up."""
        by_request = (self.requests, self.request_seconds, self.phase_seconds, self.request_bytes, self.response_bytes)
        by_version = (self.batch_size, self.model_ready, self.load_seconds, self.batch_norms, self.fold_error, self.provider)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Removal of labels")  # a worker's file keeps them; who reads it leaves them out
            for metric in (*by_request, *by_version):
                metric.remove_by_labels({"model": model, "version": version})
        self._series = {key: series for key, series in self._series.items() if (key.model, key.version) != (model, version)}


def build_info(registry: CollectorRegistry, version: str) -> None:
    """Registers what is running: normserve's version, Python's and onnxruntime's."""
    Info("normserve_build", "What is running.", registry=registry).info(
        {"version": version, "python": platform.python_version(), "onnxruntime": _onnxruntime()}
    )


def in_flight(registry: CollectorRegistry, state: Callable[[], State]) -> None:
    """Registers what is in flight, as `state` has it whenever somebody asks."""
    calls = Gauge("normserve_requests_in_flight", "Requests admitted and not yet answered.", registry=registry)
    calls.set_function(lambda: state().calls)
    size = Gauge(
        "normserve_admitted_bytes",
        "Size of the request messages admitted and not yet answered, and of the answers not yet taken.",
        registry=registry,
    )
    size.set_function(lambda: state().size)


def _onnxruntime() -> str:
    """Its version, without its import, which takes a second."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return ""
