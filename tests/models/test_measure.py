"""Errors and their bounds."""

import numpy as np
import onnx_ir as ir
import pytest
from normserve_models.measure import FOLDED, UNFOLDED, Allowance, Measure, relative_error


def measure(folded, unfolded, *, rounding=None, dtype=ir.DataType.FLOAT, tolerance=None) -> Measure:
    """The measure of one value, whose reference is 1."""
    held = Measure(Allowance(dtype, tolerance))
    for which, error in ((FOLDED, folded), (UNFOLDED, unfolded)):
        held.look_at(which, np.array([1 + error]), np.array([1.0]))
    if rounding is not None:
        held.look_at_rounding(np.array([1 + rounding]), np.array([1.0]))
    return held


@pytest.mark.parametrize(
    ("held", "bound"),
    [
        (measure(0, 0), 1e-6),
        (measure(0, 3e-6), 6e-6),
        (measure(0, np.inf), 1e-6),
        (measure(0, 0, dtype=ir.DataType.FLOAT16), 8e-3),
        (measure(0, 3e-6, tolerance=1e-9), 1e-9),
        (measure(0, 1e-7, rounding=2e-6), 4e-6),
        (measure(0, 3e-6, rounding=2e-6), 6e-6),
        (measure(0, 0, rounding=1.0), 2e-5),
        (measure(0, 0, rounding=np.inf), 1e-6),
        (measure(0, 0, rounding=np.nan), 1e-6),
        (measure(0, 0, rounding=1e-3, tolerance=1e-9), 1e-9),
    ],
)
def test_the_bound(held, bound) -> None:
    assert held.bound == pytest.approx(bound, rel=1e-6)


def test_what_misses_says_by_how_much() -> None:
    assert list(measure(0.9e-6, 0).misses()) == []
    [miss] = measure(0.25, 0.0625).misses()
    assert miss == ": the folded file is off by 0.25, the unfolded one by 0.0625, allowed is 0.125"


def test_the_worst_of_all_batches_counts() -> None:
    held = measure(0.5, 0.125)
    held.look_at(FOLDED, np.array([1.0]), np.array([1.0]))
    assert (held.folded, held.unfolded) == (0.5, 0.125)


@pytest.mark.parametrize(
    ("got", "wanted", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.5], [0.0], 0.5),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.inf, 1.0], [1.0, 1.0], np.inf),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([1.0, 1.0], [-np.inf, 1.0], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_relative_error(got, wanted, error) -> None:
    assert relative_error(np.array(got, np.float32), np.array(wanted, np.float64)) == error


def test_relative_error_of_integers_is_the_share_that_differs() -> None:
    assert relative_error(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.25
