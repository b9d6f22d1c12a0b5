"""What the page and `normserve top` show, as JSON: docs/operations.md has its fields."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from normserve_server.descriptions import Description
from normserve_server.http.history import History, Sample, difference, step_seconds
from normserve_server.http.quantiles import quantile
from normserve_server.http.readings import BATCH, CODE, REQUEST, SUM, Columns, Counts
from normserve_server.metrics import PHASES
from normserve_server.state import State

Json: TypeAlias = dict[str, Any]

TIMES = (REQUEST, *PHASES)
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

# What the service could not do; other errors are of those who called.
SERVER_FAULTS = frozenset({"INTERNAL", "UNKNOWN", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "DATA_LOSS"})


class Interval:
    """What was counted between two moments.

    Args:
        columns: where numbers stand in `counts`.
        counts: the increments.
        seconds: the interval's length.
    """

    def __init__(self, columns: Columns, counts: Counts, seconds: float) -> None:
        self.seconds = seconds
        self._numbers = {key: float(counts[column]) for key, column in columns.items()}

    @property
    def codes(self) -> dict[str, float]:
        """Requests by status code."""
        return {code: number for (kind, code), number in self._numbers.items() if kind == CODE and number}

    @property
    def requests(self) -> float:
        """Those that were answered."""
        return sum(self.codes.values())

    def per_second(self, number: float) -> float | None:
        """A number as a rate; None in no time."""
        return number / self.seconds if self.seconds > 0 else None

    def histogram(self, name: str) -> tuple[list[float], list[float]]:
        """Upper bounds, and how many were at most each."""
        numbers = {float(bound): number for (kind, bound), number in self._numbers.items() if kind == name}
        return sorted(numbers), [numbers[bound] for bound in sorted(numbers)]

    def quantiles(self, name: str) -> dict[str, float | None]:
        """The percentiles of a histogram."""
        histogram = self.histogram(name)
        return {label: quantile(q, *histogram) for label, q in QUANTILES.items()}

    def mean(self, name: str) -> float | None:
        """The mean of a histogram's observations."""
        _, counts = self.histogram(name)
        return self._numbers.get((SUM, name), 0.0) / counts[-1] if counts and counts[-1] else None

    def summary(self, name: str) -> Json:
        """Percentiles, mean and number of a histogram's observations."""
        _, counts = self.histogram(name)
        return {**self.quantiles(name), "mean": self.mean(name), "count": counts[-1] if counts else 0}


def window(history: History, minutes: int, scope: str) -> Json:
    """The numbers of the last minutes, in whole and by time.

    Args:
        history: where they are from.
        minutes: one of `history.WINDOWS`.
        scope: "model/version"; empty for all.
    """
    samples = history.window(minutes)
    intervals = [_interval(history.columns, older, newer, scope) for older, newer in pairwise(samples)]
    return {
        "window": {
            "minutes": minutes,
            "step_seconds": step_seconds(minutes),
            "covered_seconds": samples[-1].at - samples[0].at if samples else 0,
            "of": scope,
        },
        "now": _service(samples[-1].gauges) if samples else {},
        "total": _total(_whole(history, samples, scope)),
        "series": _series(samples, intervals),
        "gpus": _gpus(samples),
    }


def models(history: History, minutes: int, descriptions: Iterable[Description], state: State) -> list[Json]:
    """Each version: what is told of it, and its numbers in the window.

    Args:
        history: where the numbers are from.
        minutes: one of `history.WINDOWS`.
        descriptions: what is told.
        state: of the service; a version's state in it goes before the one that a single process tells.
    """
    samples = history.window(minutes)
    return [_model(history, samples, each, state.models) for each in descriptions]


def _model(history: History, samples: Sequence[Sample], told: Description, states: Mapping[str, str]) -> Json:
    name = f"{told.model}/{told.version}"
    seen = _whole(history, samples, name)
    return {
        "model": told.model,
        "version": told.version,
        "state": states.get(name, told.state),
        "reason": told.reason,
        "built_in": told.built_in,
        "provider": told.provider,
        "load_seconds": history.latest.load_seconds.get(name),
        "batch_norms": {**told.batch_norms},
        "left_because": {**told.left_because},
        "left": [*told.left],
        "errors": {**told.errors},
        "requests_per_second": seen.per_second(seen.requests),
        "server_error_ratio": _ratio(seen, SERVER_FAULTS),
        "latency_seconds": seen.quantiles(REQUEST),
    }


def _whole(history: History, samples: Sequence[Sample], scope: str) -> Interval:
    if not samples:
        return Interval(history.columns, difference(None, None, len(history.columns)), 0)
    return _interval(history.columns, samples[0], samples[-1], scope)


def _interval(columns: Columns, older: Sample, newer: Sample, scope: str) -> Interval:
    counts = difference(newer.totals.get(scope), older.totals.get(scope), len(columns))
    return Interval(columns, counts.clip(min=0), newer.at - older.at)


def _total(whole: Interval) -> Json:
    codes = whole.codes
    return {
        "requests": whole.requests,
        "requests_per_second": whole.per_second(whole.requests),
        "codes": codes,
        "server_error_ratio": _ratio(whole, SERVER_FAULTS),
        "caller_error_ratio": _ratio(whole, codes.keys() - SERVER_FAULTS - {"OK"}),
        "latency_seconds": {name: whole.summary(name) for name in TIMES},
        "batch_size": whole.summary(BATCH),
        "batch_sizes": _batch_sizes(whole),
    }


def _batch_sizes(whole: Interval) -> list[Json]:
    """How many batches were in each bucket."""
    bounds, counts = whole.histogram(BATCH)
    edges = pairwise([(0.0, 0.0), *zip(bounds, counts, strict=True)])
    return [
        {"from": low + 1, "to": None if high == float("inf") else high, "batches": up_to - below}
        for (low, below), (high, up_to) in edges
    ]


def _series(samples: Sequence[Sample], intervals: Sequence[Interval]) -> Json:
    ends = samples[1:]
    codes = sorted({code for interval in intervals for code in interval.codes})
    return {
        "age_seconds": [samples[-1].at - sample.at for sample in ends],
        "requests_per_second": [each.per_second(each.requests) for each in intervals],
        "codes_per_second": {code: [each.per_second(each.codes.get(code, 0.0)) for each in intervals] for code in codes},
        "latency_seconds": {name: _columns(each.quantiles(name) for each in intervals) for name in TIMES},
        "batch_size": [each.mean(BATCH) for each in intervals],
        "in_flight": [sample.gauges.get("in_flight") for sample in ends],
        "queue_depth": [sample.gauges.get("queue_depth") for sample in ends],
    }


def _columns(rows: Iterable[Mapping[str, float | None]]) -> dict[str, list[float | None]]:
    columns: dict[str, list[float | None]] = {name: [] for name in QUANTILES}
    for row in rows:
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _gpus(samples: Sequence[Sample]) -> list[Json]:
    found = sorted({name.split("/")[1] for sample in samples[-1:] for name in sample.gauges if name.startswith("gpu/")})
    names = ("utilization", "memory_used_bytes", "memory_total_bytes", "power_usage")
    return [
        {
            "uuid": uuid,
            **{name: samples[-1].gauges.get(f"gpu/{uuid}/{name}") for name in names},
            "series": {name: [sample.gauges.get(f"gpu/{uuid}/{name}") for sample in samples[1:]] for name in names},
        }
        for uuid in found
    ]


def _service(gauges: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in gauges.items() if not name.startswith("gpu/")}


def _ratio(seen: Interval, codes: Iterable[str]) -> float | None:
    requests = seen.requests
    return sum(seen.codes.get(code, 0.0) for code in codes) / requests if requests else None
