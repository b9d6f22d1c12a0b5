"""Percentiles of histograms, by the rule of PromQL's `histogram_quantile`, so that both give the same number."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def quantiles(q: float, bounds: Sequence[float], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reads a quantile off each of n histograms: straight lines within a bucket, and from 0 within the first.

    Args:
        q: between 0 and 1.
        bounds: upper bounds of the buckets, ascending; the last is infinite.
        counts: how many observations are at most each bound, shape [n, bounds].

    Returns:
        The quantiles, shape [n], in the bounds' unit; the largest finite bound where one is beyond; NaN where nothing was
        observed.
    """
    if not bounds:
        return np.full(len(counts), np.nan)
    below = np.zeros_like(counts)
    below[:, 1:] = counts[:, :-1]
    ranks = q * counts[:, -1:]
    places = np.argmax((counts >= ranks) & (counts > below), axis=1)
    rows = np.arange(len(counts))
    lows, highs = np.array([0.0, *bounds[:-1]]), np.array([*bounds[:-1], bounds[-2]])
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing was observed
        shares = (ranks[:, 0] - below[rows, places]) / (counts - below)[rows, places]
    found: NDArray[np.float64] = lows[places] + (highs - lows)[places] * shares
    return found
