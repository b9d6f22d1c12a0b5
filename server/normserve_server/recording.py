"""Writes answered calls down in the metrics, the statistics and the traces, many at a time.

A call is noted in passing and recorded within `FLUSH_SECONDS`: six histograms take longer than all else that the service does
for a small request, and per call they would be written with cold caches. Whoever reads what is recorded calls `flush` first.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import grpc
import numpy as np
from prometheus_client import Histogram

from normserve_server.calls import Call
from normserve_server.metrics import Metrics
from normserve_server.statistics import Statistics
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
        alike: defaultdict[tuple[str, str, str], list[Answered]] = defaultdict(list)
        for one in noted:
            alike[one.call.model, one.call.version, one.call.method].append(one)
            if one.call.statistics is not None:
                _add_up(one.call.statistics, one)
            if self._traces.on:
                self._traces.note(one.call, one.code.name, one.seconds)
        for labels, calls in alike.items() if self._metrics.recording else ():
            self._record(labels, calls)

    def _record(self, labels: tuple[str, str, str], calls: list[Answered]) -> None:
        series = self._metrics.series(*labels)
        for one in calls:
            series.count(one.code.name)
        series.bytes_in.inc(sum(one.bytes_in for one in calls))
        series.bytes_out.inc(sum(one.bytes_out for one in calls))
        observe_all(series.duration, (one.seconds for one in calls))
        for phase, histogram in series.phases.items():
            observe_all(histogram, (one.call.phases[phase] for one in calls if phase in one.call.phases))


def observe_all(histogram: Histogram, amounts: Iterable[float]) -> None:
    """The same as `histogram.observe` of each amount, without walking all buckets for each.

    Args:
        histogram: without labels of its own.
        amounts: any number of them.
    """
    values = np.fromiter(amounts, np.float64)
    if not values.size:
        return
    # prometheus_client has no way to observe many; a test holds this against observing one by one.
    found = np.searchsorted(histogram._upper_bounds, values)
    for position, count in enumerate(np.bincount(found).tolist()):
        if count:
            histogram._buckets[position].inc(count)
    histogram._sum.inc(float(values.sum()))


def _add_up(statistics: Statistics, one: Answered) -> None:
    if one.code is not grpc.StatusCode.OK:
        statistics.failed(one.seconds)
    elif one.call.laps is not None:
        statistics.answered(one.call.samples, one.call.phases.get("queue", 0.0), one.call.laps, one.seconds)
