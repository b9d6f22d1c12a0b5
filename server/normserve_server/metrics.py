"""What Prometheus scrapes: one object, built once, that knows every metric's name, labels and unit.

Durations are seconds from a monotonic clock. A request for an unknown model has empty `model` and `version` labels, so that
nobody can grow the number of series from outside.

With several worker processes each writes its own files, which the supervisor adds up; a gauge says in `multiprocess_mode` how.
"""

import functools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

from normserve_server.exemplars import Exemplars
from normserve_server.unrecorded import UnrecordedCounter, UnrecordedGauge, UnrecordedHistogram

PHASES = ("decode", "queue", "compute", "encode")
SWAPS = ("done", "failed")
FAULTS = ("INTERNAL", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")  # the server's, of the codes that it gives
DEVICE_EVENTS = ("cuda_graphs", "restarted", "restart_failed")
NORMALIZER_ERRORS = ("unavailable", "full", "overloaded")

# 100 us to 30 s: steps of about 1.5 to 2.5, so that a percentile read off the histogram is within its bucket.
SECONDS = (
    1e-4, 1.5e-4, 2e-4, 3e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 1e-2, 1.5e-2, 2e-2, 3e-2,
    5e-2, 7.5e-2, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0,
)  # fmt: skip


LAG_SECONDS = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # a timer is up to 1 ms late by itself


class Queue(NamedTuple):
    """What waits for a version.

    Attributes:
        depth: requests that wait.
        oldest_seconds: since the one came that has waited longest; 0 where none waits.
        fullness: how much of the room is taken, from 0 to 1; of several limits, by the one that is nearest.
    """

    depth: int = 0
    oldest_seconds: float = 0.0
    fullness: float = 0.0


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
        self._cut_short = metrics.cut_short
        self.labels = labels
        self._codes: dict[str, Counter] = {}
        self.duration = metrics.request_seconds.labels(*labels)
        self.bytes_in = metrics.request_bytes.labels(*labels)
        self.bytes_out = metrics.response_bytes.labels(*labels)
        self.phases = {phase: metrics.phase_seconds.labels(*labels, phase) for phase in PHASES}
        self._batch_size = metrics.batch_size
        for code in FAULTS:  # from the start, so that the first one is a rise
            self.count(code, 0)

    @functools.cached_property
    def batch_size(self) -> Histogram:
        """The samples that ran together for the version; only asked for where something ran, or calls of no model had one."""
        return self._batch_size.labels(*self.labels[:2])

    def count(self, code: str, requests: int = 1) -> None:
        """Counts answered requests under their status code."""
        counter = self._codes.get(code)
        if counter is None:
            counter = self._codes[code] = self._requests.labels(*self.labels, code)
        counter.inc(requests)

    def count_cut_short(self, phase: str, reason: str, requests: int) -> None:
        """Counts requests that ended in a phase because nobody waited any more."""
        self._cut_short.labels(*self.labels, phase, reason).inc(requests)


class Metrics:
    """Every metric that is written while calls are served, registered in `registry`.

    Args:
        registry: where the metrics are registered; one `Metrics` for each registry.
        recording: whether anything is recorded.

    Attributes:
        recording: likewise.
        exemplars: the last traced calls.
    """

    def __init__(self, registry: CollectorRegistry, *, recording: bool = True) -> None:
        self.recording = recording
        counter = Counter if recording else UnrecordedCounter
        gauge = Gauge if recording else UnrecordedGauge
        histogram = Histogram if recording else UnrecordedHistogram
        disable_created_metrics()  # type: ignore[no-untyped-call] # a series a series, that nothing here reads
        self.registry = registry
        self.exemplars = Exemplars()
        key = ("model", "version", "method")
        self.requests = counter(
            "normserve_requests", "Requests answered, by gRPC status code.", (*key, "code"), registry=registry
        )
        self.cut_short = counter(
            "normserve_requests_cut_short",
            "Requests that ended in a phase because their time was over or their caller left.",
            (*key, "phase", "reason"),
            registry=registry,
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
        self.batch_padding = counter(
            "normserve_batch_padding", "Samples that ran only to fill batches up to a bucket's size.", model, registry=registry
        )
        self.queue_depth = gauge(
            "normserve_queue_depth", "Requests that wait.", model, multiprocess_mode="livesum", registry=registry
        )
        self.queue_oldest_seconds = gauge(
            "normserve_queue_oldest_seconds",
            "How long the request has waited that has waited longest.",
            model,
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.queue_fullness = gauge(
            "normserve_queue_fullness_ratio",
            "How much of the queue's room is taken.",
            model,
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.model_state = gauge(
            "normserve_model_state",
            "1 for the version's state, 0 for the others that it had.",
            (*model, "state"),
            multiprocess_mode="livemax",
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
        self.warm_up_seconds = gauge(
            "normserve_model_warm_up_seconds",
            "The part of the load time in which the first inferences ran.",
            model,
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.swaps = counter(
            "normserve_model_swaps",
            "Versions that were to serve beside or instead of one that serves: those that do, and those that failed.",
            ("model", "outcome"),
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
        self.operator_fallbacks = counter(
            "normserve_operator_fallbacks",
            "Operators that the server's GPU failed at, and that were computed on the host instead.",
            registry=registry,
        )
        self.device_events = counter(
            "normserve_device_events",
            "What befell a version's sessions on a GPU: they run without CUDA graphs, or were opened anew after it had broken.",
            (*model, "event"),
            registry=registry,
        )
        self.normalizer_updates = counter(
            "normserve_normalizer_updates", "Updates of normalizers' statistics that are on the disk.", registry=registry
        )
        self.normalizer_errors = counter(
            "normserve_normalizer_errors",
            "Calls to normalizers that their state is to blame for: not to be read or written, full, or too many waiting.",
            ("reason",),
            registry=registry,
        )
        for reason in NORMALIZER_ERRORS:
            self.normalizer_errors.labels(reason)
        self.normalizer_group_seconds = histogram(
            "normserve_normalizer_group_duration_seconds",
            "From the beginning of a group of calls to normalizers, through their transaction's commit, to its end.",
            buckets=SECONDS,
            registry=registry,
        )
        self.loop_lag_seconds = histogram(
            "normserve_event_loop_lag_seconds",
            "How late the event loop calls a timer, measured ten times a second.",
            buckets=LAG_SECONDS,
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
        self._labelled = [metric for metric in vars(self).values() if isinstance(metric, MetricWrapperBase)]
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
        self.exemplars.forget(model, version)
        _set_to_zero([metric for metric in self._labelled if isinstance(metric, Gauge)], model, version)
        self._remove({"model": model, "version": version})
        self._series = {key: series for key, series in self._series.items() if (key.model, key.version) != (model, version)}

    def forget_model(self, model: str) -> None:
        """Ends the series of a model that is gone, likewise."""
        self._remove({"model": model})

    def state(self, model: str, version: str, state: str) -> None:
        """Notes the state of a version, and that it has no other any more."""
        _set_to_zero([self.model_state], model, version)
        self.model_state.labels(model, version, state).set(1)

    def provided_by(self, model: str, version: str, provider: str) -> None:
        """Notes what computes a version, and that nothing else does any more."""
        _set_to_zero([self.provider], model, version)
        self.provider.labels(model, version, provider).set(1)

    def queue(self, model: str, version: str, queue: Queue) -> None:
        """Notes what waits for a version now."""
        self.queue_depth.labels(model, version).set(queue.depth)
        self.queue_oldest_seconds.labels(model, version).set(queue.oldest_seconds)
        self.queue_fullness.labels(model, version).set(queue.fullness)

    def begin_swaps(self, model: str) -> None:
        """Has a model's swaps counted from zero: of a series that begins with its first count, nobody sees that one."""
        for outcome in SWAPS:
            self.swaps.labels(model, outcome)

    def begin_device_events(self, model: str, version: str) -> None:
        """Has a version's events counted from zero, likewise."""
        for event in DEVICE_EVENTS:
            self.device_events.labels(model, version, event)

    def _remove(self, labels: dict[str, str]) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Removal of labels")  # a worker's file keeps them; who reads it leaves them out
            for metric in self._labelled:
                if labels.keys() <= set(metric._labelnames):
                    metric.remove_by_labels(labels)


def _set_to_zero(gauges: Iterable[Gauge], model: str, version: str) -> None:
    """Sets what a version has of some gauges to 0: a worker's file keeps series, and has them again if it comes back."""
    for gauge in gauges:
        for labels in [*gauge._metrics]:
            if labels[:2] == (model, version):
                gauge.labels(*labels).set(0)
