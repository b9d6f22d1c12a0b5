"""Writes answered calls down in the metrics, the statistics and the traces, many at a time.

A call is noted in passing and recorded within `FLUSH_SECONDS`: six histograms take longer than all else that the service does
for a small request, and per call they would be written with cold caches. What is noted is numbers, side by side: the call's own
objects would by then have left the caches too. Whoever reads what is recorded calls `flush` first.
"""

import asyncio
import bisect
from collections import Counter
from collections.abc import Sequence
from struct import Struct
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from prometheus_client import Histogram

from normserve_server import access, logs
from normserve_server.access import Told
from normserve_server.calls import TOTAL, Answered, Call, Times
from normserve_server.metrics import Metrics, RequestSeries
from normserve_server.statistics import Laps, Statistics
from normserve_server.tracing import Sampler, Traces

FLUSH_SECONDS = 0.1
MOST_NOTED = 1024  # to record them holds the loop for a fifth of a millisecond
MOST_LINES = 256  # likewise where each is a line of the access log, for a third of one

_SECONDS, _BYTES_IN, _BYTES_OUT, _SAMPLES, _RAN, _ALONE = range(6)  # columns of a call's numbers
_LAPS, _MOMENTS = slice(6, 9), slice(9, None)
_NO_LAPS = Laps(0.0, 0.0, 0.0)


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
        self._most = MOST_LINES if access_log else MOST_NOTED
        self._alike: dict[tuple[object, ...], _Alike] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def note(self, answered: Answered) -> None:
        """Notes a call; it is recorded soon."""
        call, code = answered.call, answered.code
        # A version that was loaded again has the labels of the one before, and other statistics.
        key = (call.model, call.version, call.method, id(call.statistics), id(code), call.laps is None, *call.left)
        alike = self._alike.get(key)
        if alike is None:
            alike = self._alike[key] = _Alike(call, code, self._traces.sampler(call))
        if (sampler := alike.sampler) is not None:
            # As cold as caches are after a call of gRPC's, each thing that is looked at costs eight times what it does alone.
            if sampler.until > 1 and call.parent is None and call.traced is None and call.batch is None:
                sampler.until -= 1
            else:
                self._traces.note(call, code, answered.seconds)
        alike.note(answered)
        if self._access_log:
            alike.told.append(Told(call.request_id, call.peer(), access.trace_id(call)))
        call.peer = str  # its context, which keeps the call
        self._count += 1
        if self._count == 1:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        elif self._count == self._most:
            asyncio.get_running_loop().call_soon(self.flush)

    def decide(self, call: Call) -> None:
        """Finds out before a call has ended whether it is traced, for whoever logs something of it."""
        if self._traces.on:
            self._traces.decide(call)

    def flush(self) -> None:
        """Records what was noted."""
        noted, self._alike, self._count = self._alike, {}, 0
        if self._timer is not None:
            self._timer.cancel()
        common = logs.common("info") if self._access_log else None
        lines: list[bytes] = []
        for alike in noted.values():
            table = alike.table()
            times = _times(alike.left, table)
            self._record(alike, table, times)
            if common is not None:
                came, ran = table[:, _MOMENTS][:, 0], table[:, _RAN]
                lines.append(access.lines(alike.call, alike.code, alike.told, came, ran, times, common))
        logs.write(lines[0] if len(lines) == 1 else _merged(lines))

    def _record(self, alike: "_Alike", table: NDArray[np.float64], times: Times) -> None:
        if alike.call.statistics is not None:
            _add_up(alike.call.statistics, alike, table, times)
        if not self._metrics.recording:
            return
        series = self._metrics.series(alike.call.model, alike.call.version, alike.call.method)
        series.count(alike.code.name, len(table))
        series.bytes_in.inc(table[:, _BYTES_IN].sum())
        series.bytes_out.inc(table[:, _BYTES_OUT].sum())
        observe_all([series.duration, *(series.phases[phase] for phase in times.parts[1:])], times.seconds)
        if alike.reasons:
            _count_cut_short(series, alike.left, alike.reasons)
        for seconds, trace_id in alike.traced:
            position = bisect.bisect_left(series.duration._upper_bounds, seconds)
            self._metrics.exemplars.note(series.duration, series.labels, position, trace_id, seconds)
        alone = table[:, _SAMPLES][table[:, _ALONE] > 0]
        if len(alone):
            observe_all([series.batch_size], alone[np.newaxis])


class _Alike:
    """Calls to one version by one method, that ended with one code after the same phases.

    Attributes:
        call: the first of them; and `code`, `left`, and `ran`, whether something ran for them, what they have in common.
        sampler: what picks those of them that are traced; None where none is.
        told: what the access log tells of each, where there is one.
        traced: seconds and trace of those that are traced.
        reasons: why each was cut short, or nothing, where they were not answered.
    """

    def __init__(self, call: Call, code: grpc.StatusCode, sampler: Sampler | None) -> None:
        # A call that nobody waits for goes on after it was noted, as long as its batch does.
        self.call, self.code, self.left, self.ran = call, code, tuple(call.left), call.laps is not None
        self.sampler = sampler
        self.told: list[Told] = []
        self.traced: list[tuple[float, str]] = []
        self.reasons: list[str] = []
        self._rows: list[bytes] = []
        self._pack = Struct(f"{_MOMENTS.start + len(call.moments)}d").pack

    def note(self, answered: Answered) -> None:
        call, _, seconds, bytes_in, bytes_out = answered
        ran, laps = call.samples if call.batch is None else call.batch.samples, call.laps or _NO_LAPS
        self._rows.append(self._pack(seconds, bytes_in, bytes_out, call.samples, ran, call.ran_alone, *laps, *call.moments))
        if self.code is not grpc.StatusCode.OK:
            self.reasons.append(call.cut_short)
        if call.trace_id is not None:
            self.traced.append((seconds, call.trace_id))

    def table(self) -> NDArray[np.float64]:
        """The numbers, shape [calls, columns]."""
        return np.frombuffer(b"".join(self._rows)).reshape(len(self._rows), -1)


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


def _merged(lines: Sequence[bytes]) -> bytes:
    """All lines in the order of the moments that they begin with."""
    return b"".join(sorted(b"".join(lines).splitlines(keepends=True)))


def _count_cut_short(series: RequestSeries, left: Sequence[str], reasons: Sequence[str]) -> None:
    """Counts, of calls that left the same phases, those that nobody waits for, under the phase that they were in."""
    phase = "decode" if not left else "compute" if left[-1] == "decode" else left[-1]
    for reason, requests in Counter(reasons).items():
        if reason:
            series.count_cut_short(phase, reason, requests)


def _times(left: Sequence[str], table: NDArray[np.float64]) -> Times:
    """Gives what calls took that left the same phases; a phase that came again is one part."""
    phases: dict[str, NDArray[np.float64]] = {}
    for phase, seconds in zip(left, np.diff(table[:, _MOMENTS], axis=1).T, strict=True):
        phases[phase] = phases[phase] + seconds if phase in phases else seconds
    return Times((TOTAL, *phases), np.array([table[:, _SECONDS], *phases.values()]))


def _add_up(statistics: Statistics, alike: _Alike, table: NDArray[np.float64], times: Times) -> None:
    sums = dict(zip(times.parts, times.seconds.sum(axis=1).tolist(), strict=True))
    if alike.code is not grpc.StatusCode.OK:
        statistics.failed(sums[TOTAL], len(table))
    elif alike.ran:
        samples = int(table[:, _SAMPLES].sum())
        statistics.answered(samples, sums.get("queue", 0.0), _laps(table), sums[TOTAL], len(table))
    alone = table[table[:, _ALONE] > 0] if alike.ran else table[:0]
    for size in np.unique(alone[:, _SAMPLES]):
        runs = alone[alone[:, _SAMPLES] == size]
        statistics.executed(int(size), _laps(runs), len(runs))


def _laps(table: NDArray[np.float64]) -> Laps:
    return Laps(*table[:, _LAPS].sum(axis=0).tolist())
