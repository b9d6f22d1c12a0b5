"""What the history keeps of a scrape: for each version, the numbers that only grow, side by side in one array."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Metric
from prometheus_client.samples import Sample

Counts = NDArray[np.float64]

ALL = ""  # the scope of all calls together

# The RPCs that compute something; those that only ask are called by probes, and would be most of the calls of an idle server.
METHODS = frozenset({"ModelInfer", "ModelStreamInfer", "Normalize", "NormalizeStream", "ApplyNormalizer", "ObserveNormalizer"})

REQUEST = "request"
BATCH = "batch"
CODE = "code"
SUM = "sum"

_REQUEST = "normserve_request_duration_seconds"
_PHASE = "normserve_phase_duration_seconds"
_BATCH = "normserve_batch_size"
_GPU = "nv_gpu_"

# Gauges that are added up over their labels, by the name that the page has for them.
_GAUGES = {"normserve_queue_depth": "queue_depth"}

# All samples that are read.
NAMES = (
    "normserve_requests_total",
    *(f"{name}_{part}" for name in (_REQUEST, _PHASE, _BATCH) for part in ("bucket", "sum")),
    "normserve_model_load_seconds",
    *_GAUGES,
    *(f"{_GPU}{name}" for name in ("utilization", "memory_total_bytes", "memory_used_bytes", "power_usage")),
)


class Columns(dict[tuple[str, str], int]):
    """Where in an array a number stands: by (histogram, upper bound), ("sum", histogram) or ("code", status code).

    It only grows, and never beyond the buckets and codes that there are.
    """

    def __missing__(self, key: tuple[str, str]) -> int:
        self[key] = len(self)
        return self[key]


@dataclass(slots=True)
class Reading:
    """A scrape.

    Attributes:
        counts: by scope, "model/version" or "no model"; by columns.
        columns: of the arrays.
        gauges: of the whole service, and of each GPU as "gpu/<uuid>/<name>".
        load_seconds: of each version, by "model/version".
    """

    columns: Columns = field(default_factory=Columns)
    counts: dict[str, Counts] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    load_seconds: dict[str, float] = field(default_factory=dict)


def read(families: Iterable[Metric], known: Columns) -> Reading:
    """Reads a scrape; its columns are the known ones, and behind them those that are new."""
    found: dict[str, dict[int, float]] = {}
    columns = Columns(known)
    reading = Reading(columns)
    for family in families:
        for sample in family.samples:
            key = _key(sample)
            if key is not None:
                scope = found.setdefault(scope_of(sample.labels), {})
                scope[columns[key]] = scope.get(columns[key], 0.0) + sample.value
            else:
                _note_gauge(reading, sample)
    for name, numbers in found.items():
        counts = np.zeros(len(columns))
        counts[list(numbers)] = list(numbers.values())
        reading.counts[name] = counts
    return reading


def scope_of(labels: Mapping[str, str]) -> str:
    """Names the version that a sample is of."""
    return f"{labels['model']}/{labels['version']}" if labels.get("model") else "no model"


def _key(sample: Sample) -> tuple[str, str] | None:
    labels = sample.labels
    if sample.name.startswith(_BATCH):
        histogram = BATCH
    elif labels.get("method") not in METHODS:
        return None
    elif sample.name == "normserve_requests_total":
        return CODE, labels["code"]
    elif sample.name.startswith(_REQUEST):
        histogram = REQUEST
    elif sample.name.startswith(_PHASE):
        histogram = labels["phase"]
    else:
        return None
    if sample.name.endswith("_bucket"):
        return histogram, labels["le"]
    return (SUM, histogram) if sample.name.endswith("_sum") else None


def _note_gauge(reading: Reading, sample: Sample) -> None:
    if sample.name in _GAUGES:
        name = _GAUGES[sample.name]
        reading.gauges[name] = reading.gauges.get(name, 0.0) + sample.value
    elif sample.name == "normserve_model_load_seconds":
        reading.load_seconds[scope_of(sample.labels)] = sample.value
    elif sample.name.startswith(_GPU) and sample.labels:
        uuid = next(iter(sample.labels.values()))
        reading.gauges[f"gpu/{uuid}/{sample.name.removeprefix(_GPU)}"] = sample.value
