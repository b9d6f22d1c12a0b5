"""Percentiles read off histograms; against Prometheus itself: tests/e2e/test_overview.py."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from normserve_server.http.quantiles import quantile

BOUNDS = (1.0, 2.0, 4.0, inf)


@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        (0.5, (0, 0, 0, 0), None),
        (0.5, (), None),
        (0.5, (10, 10, 10, 10), 0.5),  # within the first bucket, from 0
        (0.5, (0, 10, 10, 10), 1.5),
        (0.75, (5, 10, 10, 10), 1.5),
        (0.99, (0, 0, 100, 100), 3.98),
        (0.99, (0, 0, 0, 10), 4.0),  # beyond the largest finite bound
        (0.0, (0, 10, 10, 10), 1.0),
        (1.0, (1, 1, 1, 1), 1.0),
    ],
)
def test_quantiles(q: float, counts: tuple, expected: float | None) -> None:
    assert quantile(q, BOUNDS, counts) == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.floats(0.0001, 3.9), min_size=1, max_size=50), st.sampled_from((0.5, 0.95, 0.99)))
def test_a_quantile_is_in_the_bucket_of_the_observation_that_it_stands_for(values: list[float], q: float) -> None:
    found = quantile(q, BOUNDS, [sum(value <= bound for value in values) for bound in BOUNDS])
    rank = max(1, int(-(-q * len(values) // 1)))
    exact = sorted(values)[rank - 1]
    high = next(bound for bound in BOUNDS if exact <= bound)
    low = max((bound for bound in BOUNDS if bound < high), default=0)
    assert low <= found <= high
