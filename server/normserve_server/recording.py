"""Writes answered calls down in the metrics, the statistics and the traces, many at a time.

A call is noted in passing and recorded within `FLUSH_SECONDS`: six histograms take longer than all else that the service does
for a small request, and per call they would be written with cold caches. Whoever reads what is recorded calls `flush` first.
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
from normserve_server.calls import Answered, Call
from normserve_server.metrics import Metrics, RequestSeries
from normserve_server.statistics import Laps, Statistics
from normserve_server.tracing import Traces

FLUSH_SECONDS = 0.02


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

    def note(self, answered: Answered) -> None:
        """Notes a call; it is recorded soon."""
        if not self._noted:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        self._noted.append(answered)

    def decide(self, call: Call) -> None:
        """Finds out before a call has ended whether it is traced, for whoever logs something of it."""
        if self._traces.on:
            self._traces.decide(call)

    def flush(self) -> None:
        """Records what was noted."""
        noted, self._noted = self._noted, []
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
            seconds, phases = np.array([one.seconds for one in calls]), _durations([one.call for one in calls])
            self._record(calls, seconds, phases)
            if common is not None:
                lines += access.lines(calls, seconds, phases, common)
        logs.write(sorted(lines, key=operator.itemgetter("timestamp")))

    def _record(
        self, calls: Sequence[Answered], seconds: NDArray[np.float64], phases: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Records calls to one version by one method, that ended with one code after the same phases."""
        first = calls[0].call
        if first.statistics is not None:
            _add_up(first.statistics, calls, float(seconds.sum()), phases)
        if not self._metrics.recording:
            return
        series = self._metrics.series(first.model, first.version, first.method)
        series.count(calls[0].code.name, len(calls))
        series.bytes_in.inc(sum([one.bytes_in for one in calls]))
        series.bytes_out.inc(sum([one.bytes_out for one in calls]))
        observe_all(series.duration, seconds)
        for phase, times in phases.items():
            observe_all(series.phases[phase], times)
        if calls[0].code is not grpc.StatusCode.OK:
            _count_cut_short(series, calls)
        for one in [one for one in calls if one.call.trace_id]:
            position = bisect.bisect_left(series.duration._upper_bounds, one.seconds)
            self._metrics.exemplars.note(series.duration, series.labels, position, str(one.call.trace_id), one.seconds)
        alone = [one.call.samples for one in calls if one.call.ran_alone]
        if alone:
            observe_all(series.batch_size, np.array(alone))


def observe_all(histogram: Histogram, amounts: NDArray[Any]) -> None:
    """The same as `histogram.observe` of each amount, without walking all buckets for each.

    Args:
        histogram: without labels of its own.
        amounts: shape [n], of any dtype of numbers.
    """
    # prometheus_client has no way to observe many; a test holds this against observing one by one.
    found = np.searchsorted(histogram._upper_bounds, amounts)
    for position, count in enumerate(np.bincount(found).tolist()):
        if count:
            histogram._buckets[position].inc(count)
    histogram._sum.inc(float(amounts.sum()))


def _count_cut_short(series: RequestSeries, calls: Sequence[Answered]) -> None:
    """Counts, of calls that left the same phases, those that nobody waits for, under the phase that they were in."""
    left = calls[0].call.left
    phase = "decode" if not left else "compute" if left[-1] == "decode" else left[-1]
    for reason, requests in Counter(one.call.cut_short for one in calls).items():
        if reason:
            series.count_cut_short(phase, reason, requests)


def _durations(calls: Sequence[Call]) -> dict[str, NDArray[np.float64]]:
    """Gives the seconds in each phase, shape [n], of calls that left the same phases."""
    phases: dict[str, NDArray[np.float64]] = {}
    seconds = np.diff(np.array([call.moments for call in calls]), axis=1)
    for position, phase in enumerate(calls[0].left):
        phases[phase] = phases.get(phase, 0.0) + seconds[:, position]
    return phases


def _add_up(
    statistics: Statistics, calls: Sequence[Answered], seconds: float, phases: Mapping[str, NDArray[np.float64]]
) -> None:
    if calls[0].code is not grpc.StatusCode.OK:
        statistics.failed(seconds, len(calls))
    elif calls[0].call.laps is not None:
        samples, queue = sum([one.call.samples for one in calls]), float(np.sum(phases.get("queue", 0.0)))
        laps = Laps.together([one.call.laps for one in calls if one.call.laps is not None])
        statistics.answered(samples, queue, laps, seconds, len(calls))
    sizes: defaultdict[int, list[Laps]] = defaultdict(list)
    for one in calls:
        if one.call.ran_alone and one.call.laps is not None:
            sizes[one.call.samples].append(one.call.laps)
    for size, runs in sizes.items():
        statistics.executed(size, Laps.together(runs), len(runs))
