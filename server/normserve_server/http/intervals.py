"""What was counted in intervals, and what people read off it: of all of them at once, because calls wait meanwhile."""

import functools
from collections.abc import Iterable

import numpy as np

from normserve_server.http.quantiles import quantiles
from normserve_server.http.readings import CODE, SUM, Columns, Counts

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class Intervals:
    """n intervals: those of a window, one after the other, or the same one of n versions.

    All numbers are of shape [n], and NaN where there is none.

    Args:
        columns: where numbers stand in `counts`.
        counts: the increments, shape [n, columns].
        seconds: the intervals' lengths, shape [n].
    """

    def __init__(self, columns: Columns, counts: Counts, seconds: Counts) -> None:
        self._columns = columns
        self._counts = counts
        self._seconds = seconds

    @functools.cached_property
    def codes(self) -> dict[str, Counts]:
        """Requests by status code, of those codes that there are."""
        found = sorted((code, self._counts[:, column]) for (kind, code), column in self._columns.items() if kind == CODE)
        return {code: numbers for code, numbers in found if numbers.any()}

    @property
    def requests(self) -> Counts:
        """Those that were answered."""
        return sum(self.codes.values(), np.zeros(len(self._counts)))

    def per_second(self, numbers: Counts) -> Counts:
        """Numbers as rates."""
        return _ratio(numbers, self._seconds)

    def share(self, codes: Iterable[str]) -> Counts:
        """Which part of the requests ended with one of these codes."""
        chosen = [self.codes[code] for code in codes if code in self.codes]
        return _ratio(sum(chosen, np.zeros(len(self._counts))), self.requests)

    def histogram(self, name: str) -> tuple[list[float], Counts]:
        """Upper bounds, and how many were at most each: shape [n, bounds]."""
        return self._histograms.get(name, ([], self._counts[:, :0]))

    @functools.cached_property
    def _histograms(self) -> dict[str, tuple[list[float], Counts]]:
        buckets: dict[str, dict[float, int]] = {}
        for (kind, bound), column in self._columns.items():
            if kind not in {CODE, SUM}:
                buckets.setdefault(kind, {})[float(bound)] = column
        return {
            kind: (sorted(found), self._counts[:, [found[bound] for bound in sorted(found)]]) for kind, found in buckets.items()
        }

    def quantiles(self, name: str) -> dict[str, Counts]:
        """The percentiles of a histogram."""
        histogram = self.histogram(name)
        return {label: quantiles(q, *histogram) for label, q in QUANTILES.items()}

    def count(self, name: str) -> Counts:
        """How many observations a histogram has."""
        _, counts = self.histogram(name)
        return counts[:, -1] if counts.size else np.zeros(len(counts))

    def mean(self, name: str) -> Counts:
        """The mean of a histogram's observations."""
        column = self._columns.get((SUM, name))
        return _ratio(np.zeros(len(self._counts)) if column is None else self._counts[:, column], self.count(name))


def _ratio(numbers: Counts, among: Counts) -> Counts:
    result: Counts = np.divide(numbers, among, out=np.full(len(numbers), np.nan), where=among > 0)
    return result
