"""What the page and `normserve top` show, as JSON: docs/operations.md has its fields."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from normserve_server.descriptions import Description
from normserve_server.http.history import History, Sample, step_seconds
from normserve_server.http.intervals import Intervals
from normserve_server.http.readings import BATCH, REQUEST, Columns, Counts
from normserve_server.metrics import PHASES
from normserve_server.state import State

Json: TypeAlias = dict[str, Any]

TIMES = (REQUEST, *PHASES)

# What the service could not do; other errors are of those who called.
SERVER_FAULTS = frozenset({"INTERNAL", "UNKNOWN", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "DATA_LOSS"})


def window(history: History, minutes: int, scope: str) -> Json:
    """The numbers of the last minutes, in whole and by time.

    Args:
        history: where they are from.
        minutes: one of `history.WINDOWS`.
        scope: "model/version"; empty for all.
    """
    samples = history.window(minutes)
    return {
        "window": {
            "minutes": minutes,
            "step_seconds": step_seconds(minutes),
            "covered_seconds": samples[-1].at - samples[0].at if samples else 0,
            "of": scope,
        },
        "now": _service(samples[-1].gauges) if samples else {},
        "total": _total(_whole(history.columns, samples, [scope])),
        "series": _series(samples, _steps(history.columns, samples, scope)),
        "gpus": _gpus(samples),
    }


def models(history: History, minutes: int, descriptions: Sequence[Description], state: State) -> list[Json]:
    """Each version: what is told of it, and its numbers in the window.

    Args:
        history: where the numbers are from.
        minutes: one of `history.WINDOWS`.
        descriptions: what is told.
        state: of the service; a version's state in it goes before the one that a single process tells.
    """
    names = [f"{each.model}/{each.version}" for each in descriptions]
    seen = _whole(history.columns, history.window(minutes), names)
    return [
        {
            **_told(told),
            "state": state.models.get(name, told.state),
            "load_seconds": history.latest.load_seconds.get(name),
            "requests_per_second": rate,
            "server_error_ratio": errors,
            "latency_seconds": latency,
        }
        for name, told, rate, errors, latency in zip(
            names,
            descriptions,
            _numbers(seen.per_second(seen.requests)),
            _numbers(seen.share(SERVER_FAULTS)),
            _rows(seen.quantiles(REQUEST)),
            strict=True,
        )
    ]


def _told(told: Description) -> Json:
    return {
        "model": told.model,
        "version": told.version,
        "reason": told.reason,
        "built_in": told.built_in,
        "provider": told.provider,
        "batch_norms": {**told.batch_norms},
        "left_because": {**told.left_because},
        "left": [*told.left],
        "errors": {**told.errors},
    }


def _whole(columns: Columns, samples: Sequence[Sample], scopes: Sequence[str]) -> Intervals:
    """From the first sample to the last, of each scope."""
    if not samples:
        return Intervals(columns, np.zeros((len(scopes), len(columns))), np.zeros(len(scopes)))
    first, last = (
        _side_by_side(columns, [sample.totals.get(scope) for scope in scopes]) for sample in (samples[0], samples[-1])
    )
    return Intervals(columns, (last - first).clip(min=0), np.full(len(scopes), samples[-1].at - samples[0].at))


def _steps(columns: Columns, samples: Sequence[Sample], scope: str) -> Intervals:
    """From each sample to the next, of one scope."""
    totals = _side_by_side(columns, [sample.totals.get(scope) for sample in samples])
    return Intervals(columns, np.diff(totals, axis=0).clip(min=0), np.diff([sample.at for sample in samples]))


def _side_by_side(columns: Columns, totals: Sequence[Counts | None]) -> Counts:
    """Totals, of which older ones may have fewer columns, or be none at all; shape [totals, columns]."""
    together = np.zeros((len(totals), len(columns)))
    for row, counts in zip(together, totals, strict=True):
        if counts is not None:
            row[: len(counts)] = counts
    return together


def _total(whole: Intervals) -> Json:
    others = whole.codes.keys() - SERVER_FAULTS - {"OK"}
    return {
        "requests": _number(whole.requests),
        "requests_per_second": _number(whole.per_second(whole.requests)),
        "codes": {code: _number(numbers) for code, numbers in whole.codes.items()},
        "server_error_ratio": _number(whole.share(SERVER_FAULTS)),
        "caller_error_ratio": _number(whole.share(others)),
        "latency_seconds": {name: _summary(whole, name) for name in TIMES},
        "batch_size": _summary(whole, BATCH),
        "batch_sizes": _batch_sizes(whole),
    }


def _summary(whole: Intervals, name: str) -> Json:
    """Percentiles, mean and number of a histogram's observations."""
    (percentiles,) = _rows(whole.quantiles(name))
    return {**percentiles, "mean": _number(whole.mean(name)), "count": _number(whole.count(name))}


def _batch_sizes(whole: Intervals) -> list[Json]:
    """How many batches were in each bucket."""
    bounds, counts = whole.histogram(BATCH)
    edges = pairwise([(0.0, 0.0), *zip(bounds, *counts.tolist(), strict=True)])
    return [
        {"from": low + 1, "to": None if high == float("inf") else high, "batches": up_to - below}
        for (low, below), (high, up_to) in edges
    ]


def _series(samples: Sequence[Sample], steps: Intervals) -> Json:
    ends = samples[1:]
    return {
        "age_seconds": [samples[-1].at - sample.at for sample in ends],
        "requests_per_second": _numbers(steps.per_second(steps.requests)),
        "codes_per_second": {code: _numbers(steps.per_second(numbers)) for code, numbers in steps.codes.items()},
        "latency_seconds": {name: {label: _numbers(times) for label, times in steps.quantiles(name).items()} for name in TIMES},
        "batch_size": _numbers(steps.mean(BATCH)),
        "in_flight": [sample.gauges.get("in_flight") for sample in ends],
        "queue_depth": [sample.gauges.get("queue_depth") for sample in ends],
    }


def _rows(columns: Mapping[str, Counts]) -> list[dict[str, float | None]]:
    """A dictionary for each of n places."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*map(_numbers, columns.values()), strict=True)]


def _numbers(values: Counts) -> list[float | None]:
    """As JSON has them, which has no NaN."""
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - NaN alone is not itself


def _number(values: Counts) -> float | None:
    """The only one."""
    return _numbers(values)[0]


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
