"""Percentiles of histograms, by the rule of PromQL's `histogram_quantile`, so that both give the same number."""

from collections.abc import Sequence
from itertools import pairwise


def quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """Reads a quantile off a histogram: straight lines within a bucket, and from 0 within the first.

    Args:
        q: between 0 and 1.
        bounds: upper bounds of the buckets, ascending; the last is infinite.
        counts: how many observations are at most each bound.

    Returns:
        The quantile, in the bounds' unit; the largest finite bound where it is beyond; None where nothing was observed.
    """
    if not counts or counts[-1] <= 0:
        return None
    rank = q * counts[-1]
    steps = pairwise([(0.0, 0.0), *zip(bounds, counts, strict=True)])
    for (low, below), (high, up_to) in steps:
        if up_to >= rank and up_to > below:
            return low if high == float("inf") else low + (high - low) * (rank - below) / (up_to - below)
    return bounds[-2]
