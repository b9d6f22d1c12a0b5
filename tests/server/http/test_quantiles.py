"""Percentiles read off histograms; against Prometheus itself: tests/e2e/test_overview.py."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normserve_server.http.quantiles import quantiles

BOUNDS = (1.0, 2.0, 4.0, inf)


@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        (0.5, (0, 0, 0, 0), np.nan),
        (0.5, (10, 10, 10, 10), 0.5),  # within the first bucket, from 0
        (0.5, (0, 10, 10, 10), 1.5),
        (0.75, (5, 10, 10, 10), 1.5),
        (0.99, (0, 0, 100, 100), 3.98),
        (0.99, (0, 0, 0, 10), 4.0),  # beyond the largest finite bound
        (0.0, (0, 10, 10, 10), 1.0),
        (1.0, (1, 1, 1, 1), 1.0),
    ],
)
def test_quantiles(q: float, counts: tuple, expected: float) -> None:
    found = quantiles(q, BOUNDS, np.array([counts, (0.0, 0.0, 0.0, 0.0), counts]))
    assert found == pytest.approx([expected, np.nan, expected], nan_ok=True)


def test_of_a_histogram_that_is_not_known_yet_there_are_none() -> None:
    assert quantiles(0.5, (), np.zeros((2, 0))) == pytest.approx([np.nan, np.nan], nan_ok=True)


@given(st.lists(st.floats(0.0001, 3.9), min_size=1, max_size=50), st.sampled_from((0.5, 0.95, 0.99)))
def test_a_quantile_is_in_the_bucket_of_the_observation_that_it_stands_for(values: list[float], q: float) -> None:
    counts = np.array([[float(sum(value <= bound for value in values)) for bound in BOUNDS]])
    (found,) = quantiles(q, BOUNDS, counts)
    rank = max(1, int(-(-q * len(values) // 1)))
    exact = sorted(values)[rank - 1]
    high = next(bound for bound in BOUNDS if exact <= bound)
    low = max((bound for bound in BOUNDS if bound < high), default=0)
    assert low <= found <= high
