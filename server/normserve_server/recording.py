"""Writes answered calls down in the metrics, the statistics and the traces, many at a time.

A call is noted in passing and recorded within `FLUSH_SECONDS`: six histograms take longer than all else that the service does
for a small request, and per call they would be written with cold caches. So would those of a few: the first call of a flush
costs as much as the next fifty (with an access log, twenty-five). Whoever reads what is recorded calls `flush` first.
"""

import asyncio
import bisect
import operator
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from prometheus_client import Histogram

from normserve_server import access, logs
from normserve_server.calls import TOTAL, Answered, Call, Times
from normserve_server.metrics import Metrics, RequestSeries
from normserve_server.statistics import Laps, Statistics
from normserve_server.tracing import Traces

FLUSH_SECONDS = 0.1
MOST_NOTED = 256  # to record them, a line of the access log for each, holds the loop for about a millisecond


class Recorder:
    """Notes calls, and records them a little later.

    Args:
        metrics: what is scraped.
        traces: what decides which calls are traced.
        access_log: whether each call is a line of the log.
    """

    def __init__(self, metrics: Metrics, traces: Traces, *, access_log: bool = False) -> None:
        self._metrics = metrics
        self._traces = traces
        self._access_log = access_log
        self._noted: list[Answered] = []
        self._timer: asyncio.TimerHandle | None = None

    def note(self, answered: Answered) -> None:
        """Notes a call; it is recorded soon."""
        self._noted.append(answered)
        if len(self._noted) == 1:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        elif len(self._noted) == MOST_NOTED:
            asyncio.get_running_loop().call_soon(self.flush)

    def decide(self, call: Call) -> None:
        """Finds out before a call has ended whether it is traced, for whoever logs something of it."""
        if self._traces.on:
            self._traces.decide(call)

    def flush(self) -> None:
        """Records what was noted."""
        noted, self._noted = self._noted, []
        if self._timer is not None:
            self._timer.cancel()
        alike: defaultdict[tuple[object, ...], list[Answered]] = defaultdict(list)
        for one in noted:
            call = one.call
            # A version that was loaded again has the labels of the one before, and other statistics.
            key = (call.model, call.version, call.method, id(call.statistics), one.code, tuple(call.left))
            alike[key].append(one)
            if self._traces.on:
                self._traces.note(call, one.code.name, one.seconds)
        common = logs.common("info") if self._access_log else None
        lines: list[dict[str, Any]] = []
        for calls in alike.values():
            times = _times(calls)
            self._record(calls, times)
            if common is not None:
                lines += access.lines(calls, times, common)
        logs.write(sorted(lines, key=operator.itemgetter("timestamp")))

    def _record(self, calls: Sequence[Answered], times: Times) -> None:
        """Records calls to one version by one method, that ended with one code after the same phases."""
        first, sums = calls[0].call, dict(zip(times.parts, times.seconds.sum(axis=1).tolist(), strict=True))
        if first.statistics is not None:
            _add_up(first.statistics, calls, sums)
        if not self._metrics.recording:
            return
        series = self._metrics.series(first.model, first.version, first.method)
        series.count(calls[0].code.name, len(calls))
        series.bytes_in.inc(sum([one.bytes_in for one in calls]))
        series.bytes_out.inc(sum([one.bytes_out for one in calls]))
        observe_all([series.duration, *(series.phases[phase] for phase in times.parts[1:])], times.seconds)
        if calls[0].code is not grpc.StatusCode.OK:
            _count_cut_short(series, calls)
        for one in [one for one in calls if one.call.trace_id]:
            position = bisect.bisect_left(series.duration._upper_bounds, one.seconds)
            self._metrics.exemplars.note(series.duration, series.labels, position, str(one.call.trace_id), one.seconds)
        alone = [one.call.samples for one in calls if one.call.ran_alone]
        if alone:
            observe_all([series.batch_size], np.array([alone]))


def observe_all(histograms: Sequence[Histogram], amounts: NDArray[Any]) -> None:
    """The same as `histogram.observe` of each amount, without walking all buckets for each.

    Args:
        histograms: m of them, with the same buckets, and without labels of their own.
        amounts: shape [m, n], of any dtype of numbers.
    """
    # prometheus_client has no way to observe many; a test holds this against observing one by one.
    bounds = histograms[0]._upper_bounds
    found = np.searchsorted(bounds, amounts) + np.arange(0, len(bounds) * len(histograms), len(bounds))[:, np.newaxis]
    for position, count in enumerate(np.bincount(found.ravel()).tolist()):
        if count:
            histograms[position // len(bounds)]._buckets[position % len(bounds)].inc(count)
    for histogram, total in zip(histograms, amounts.sum(axis=1).tolist(), strict=True):
        histogram._sum.inc(total)


def _count_cut_short(series: RequestSeries, calls: Sequence[Answered]) -> None:
    """Counts, of calls that left the same phases, those that nobody waits for, under the phase that they were in."""
    left = calls[0].call.left
    phase = "decode" if not left else "compute" if left[-1] == "decode" else left[-1]
    for reason, requests in Counter(one.call.cut_short for one in calls).items():
        if reason:
            series.count_cut_short(phase, reason, requests)


def _times(calls: Sequence[Answered]) -> Times:
    """Gives what calls took that left the same phases; a phase that came again is one part."""
    phases: dict[str, NDArray[np.float64]] = {}
    for phase, seconds in zip(calls[0].call.left, np.diff([one.call.moments for one in calls], axis=1).T, strict=True):
        phases[phase] = phases[phase] + seconds if phase in phases else seconds
    return Times((TOTAL, *phases), np.array([[one.seconds for one in calls], *phases.values()]))


def _add_up(statistics: Statistics, calls: Sequence[Answered], seconds: Mapping[str, float]) -> None:
    if calls[0].code is not grpc.StatusCode.OK:
        statistics.failed(seconds[TOTAL], len(calls))
    elif calls[0].call.laps is not None:
        samples, queue = sum([one.call.samples for one in calls]), seconds.get("queue", 0.0)
        laps = Laps.together([one.call.laps for one in calls if one.call.laps is not None])
        statistics.answered(samples, queue, laps, seconds[TOTAL], len(calls))
    sizes: defaultdict[int, list[Laps]] = defaultdict(list)
    for one in calls:
        if one.call.ran_alone and one.call.laps is not None:
            sizes[one.call.samples].append(one.call.laps)
    for size, runs in sizes.items():
        statistics.executed(size, Laps.together(runs), len(runs))
