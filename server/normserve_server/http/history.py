"""The last hour of the metrics, in a bounded amount of memory.

Each window that can be looked at has a ring of about 60 samples of its own: a second apart for a minute, a minute apart for an
hour. A sample holds totals that only grow, so what happened between two of them is their difference.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from normserve_server.http.readings import ALL, Columns, Counts, Reading

POINTS = 60
_SLOTS = 68  # of a ring: steps of 5 s may be 4.5 s long
WINDOWS = (1, 5, 15, 60)  # minutes
MAX_SCOPES = 32  # versions with numbers of their own, of about 2 KB a sample; more are in the sum alone
_EARLY = 0.5  # seconds that a sample may come before its time, because timers are not exact


@dataclass(frozen=True, slots=True)
class Sample:
    """The totals at a moment.

    Attributes:
        at: by `calls.now`, seconds.
        totals: since the history began, by scope, by columns; arrays that have not changed are shared with the sample before.
        gauges: as `Reading.gauges`.
    """

    at: float
    totals: dict[str, Counts]
    gauges: dict[str, float]


@dataclass
class History:
    """The samples of the last hour.

    A version that goes keeps its totals, or its numbers would be wrong where it comes back. Another may have its place.

    Attributes:
        counted_on: whether a version that goes and comes back is counted on from where it was, as in the files of several
            workers; else from zero.
        left_out: versions that had calls and were too many to be kept apart.
        latest: the last reading.
    """

    counted_on: bool = False
    left_out: int = 0
    latest: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        self._rings = {minutes: deque[Sample](maxlen=_SLOTS) for minutes in WINDOWS}
        self._totals: dict[str, Counts] = {}
        self._all: Counts = np.zeros(0)
        self._before: dict[str, Counts] | None = None
        self._last: Sample | None = None

    @property
    def columns(self) -> Columns:
        """Where numbers stand in the arrays."""
        return self.latest.columns

    def add(self, reading: Reading, at: float) -> None:
        """Adds what was read at `at`; the first reading is where everything is counted from."""
        increments = self._increments(reading)
        self._before = {**(self._before or {}), **reading.counts} if self.counted_on else reading.counts
        self.latest = reading
        zeros = np.zeros(len(self.columns))
        kept = self._kept(increments)
        self._totals = {scope: _plus(kept[scope], increments.get(scope, zeros)) for scope in kept}
        self._all = _plus(self._all, sum(increments.values(), zeros))
        self._last = Sample(at, {**self._totals, ALL: self._all}, reading.gauges)
        for minutes, ring in self._rings.items():
            if not ring or at - ring[-1].at >= step_seconds(minutes) - _EARLY:
                ring.append(self._last)

    def window(self, minutes: int) -> list[Sample]:
        """The samples of the last minutes, the oldest first: one more than there are intervals, and none if there is none.

        Args:
            minutes: one of `WINDOWS`.
        """
        if self._last is None:
            return []
        ring = self._rings[minutes]
        samples = [*ring] if ring[-1] is self._last else [*ring, self._last]
        begin = self._last.at - minutes * 60 - _EARLY
        inside = next(place for place, sample in enumerate(samples) if sample.at >= begin)
        return samples[inside:]

    def _kept(self, increments: Mapping[str, Counts]) -> dict[str, Counts]:
        """The totals so far of the versions that have a place: the gone ones, the longest gone first, and the rest."""
        gone = {scope: total for scope, total in self._totals.items() if scope not in increments}
        there = {scope: total for scope, total in self._totals.items() if scope in increments}
        new = [scope for scope, increment in increments.items() if scope not in there and increment.any()]
        room = MAX_SCOPES - len(there)
        self.left_out = max(0, len(new) - room)
        new = new[:room]
        for scope in [*gone][: max(0, len(gone) + len(new) - room)]:
            del gone[scope]
        return gone | there | dict.fromkeys(new, np.zeros(0))

    def _increments(self, reading: Reading) -> dict[str, Counts]:
        if self._before is None:
            return {scope: np.zeros(len(counts)) for scope, counts in reading.counts.items()}
        return {scope: _increment(self._before.get(scope), counts) for scope, counts in reading.counts.items()}


def step_seconds(minutes: int) -> float:
    """Time between two samples of a window; the last one may come earlier."""
    return minutes * 60 / POINTS


def difference(newer: Counts | None, older: Counts | None, width: int) -> Counts:
    """What was counted between two samples; `width` columns, of which older arrays may have less."""
    result = np.zeros(width)
    for sign, counts in ((1, newer), (-1, older)):
        if counts is not None:
            result[: len(counts)] += sign * counts
    return result


def _increment(before: Counts | None, counts: Counts) -> Counts:
    """How much more it is; all of it where it is less in any place: then it was counted anew."""
    increment = difference(counts, before, len(counts))
    return increment if (increment >= 0).all() else counts


def _plus(total: Counts, increment: Counts) -> Counts:
    if len(total) == len(increment) and not increment.any():
        return total
    return difference(total, -increment, max(len(total), len(increment)))
