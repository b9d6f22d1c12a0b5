"""Writes answered calls down in the metrics, the statistics and the traces, many at a time.

A call is noted in passing and recorded within `FLUSH_SECONDS`: six histograms take longer than all else that the service does
for a small request, and per call they would be written with cold caches. Whoever reads what is recorded calls `flush` first.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import grpc
import numpy as np
from prometheus_client import Histogram

from normserve_server.calls import Call
from normserve_server.metrics import Metrics, RequestSeries
from normserve_server.statistics import Laps, Statistics
from normserve_server.tracing import Traces

FLUSH_SECONDS = 0.02


class Answered(NamedTuple):
    """A call that has its answer.

    Attributes:
        call: what it was, and how long its phases took.
        code: how it ended.
        seconds: from the message's arrival to its answer.
        bytes_in: size of the message; and `bytes_out`, of the answer.
    """

    call: Call
    code: grpc.StatusCode
    seconds: float
    bytes_in: int
    bytes_out: int


class Recorder:
    """Notes calls, and records them a little later.

    Args:
        metrics: what is scraped.
        traces: what decides which calls are logged.
    """

    def __init__(self, metrics: Metrics, traces: Traces) -> None:
        self._metrics = metrics
        self._traces = traces
        self._noted: list[Answered] = []

    def note(self, answered: Answered) -> None:
        """Notes a call; it is recorded soon."""
        if not self._noted:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        self._noted.append(answered)

    def flush(self) -> None:
        """Records what was noted."""
        noted, self._noted = self._noted, []
        alike: defaultdict[tuple[str, str, str, int], list[Answered]] = defaultdict(list)
        for one in noted:
            call = one.call
            # A version that was loaded again has the labels of the one before, and other statistics.
            alike[call.model, call.version, call.method, id(call.statistics)].append(one)
            if self._traces.on:
                self._traces.note(call, one.code.name, one.seconds)
        for (*labels, _), calls in alike.items():
            phases = [one.call.phases() for one in calls]
            if (statistics := calls[0].call.statistics) is not None:
                _add_up(statistics, calls, phases)
            if self._metrics.recording:
                self._record(self._metrics.series(*labels), calls, phases)

    def _record(self, series: RequestSeries, calls: list[Answered], times: list[dict[str, float]]) -> None:
        for code, requests in Counter(one.code.name for one in calls).items():
            series.count(code, requests)
        series.bytes_in.inc(sum(one.bytes_in for one in calls))
        series.bytes_out.inc(sum(one.bytes_out for one in calls))
        observe_all(series.duration, [one.seconds for one in calls])
        for phase, histogram in series.phases.items():
            observe_all(histogram, [phases[phase] for phases in times if phase in phases])
        if alone := [one.call.samples for one in calls if one.call.ran_alone]:
            observe_all(series.batch_size, alone)


def observe_all(histogram: Histogram, amounts: Sequence[float]) -> None:
    """The same as `histogram.observe` of each amount, without walking all buckets for each.

    Args:
        histogram: without labels of its own.
        amounts: any number of them.
    """
    values = np.array(amounts, np.float64)
    if not values.size:
        return
    # prometheus_client has no way to observe many; a test holds this against observing one by one.
    found = np.searchsorted(histogram._upper_bounds, values)
    for position, count in enumerate(np.bincount(found).tolist()):
        if count:
            histogram._buckets[position].inc(count)
    histogram._sum.inc(float(values.sum()))


def _add_up(statistics: Statistics, calls: list[Answered], times: list[dict[str, float]]) -> None:
    failed = [one.seconds for one in calls if one.code is not grpc.StatusCode.OK]
    if failed:
        statistics.failed(sum(failed), len(failed))
    ran = [(one, phases, laps) for one, phases in zip(calls, times, strict=True) if (laps := one.call.laps) is not None]
    answered = [each for each in ran if each[0].code is grpc.StatusCode.OK]
    if answered:
        statistics.answered(
            sum(one.call.samples for one, _, _ in answered),
            sum(phases.get("queue", 0.0) for _, phases, _ in answered),
            Laps.together([laps for _, _, laps in answered]),
            sum(one.seconds for one, _, _ in answered),
            len(answered),
        )
    sizes: defaultdict[int, list[Laps]] = defaultdict(list)
    for one, _, laps in ran:
        if one.call.ran_alone:
            sizes[one.call.samples].append(laps)
    for samples, runs in sizes.items():
        statistics.executed(samples, Laps.together(runs), len(runs))
