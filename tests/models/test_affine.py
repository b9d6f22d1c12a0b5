"""The algebra."""

import numpy as np
import pytest
from normserve_models.affine import Affine, BadStatisticsError, of_batch_norm


def test_a_batch_norm_is_the_map_of_the_paper() -> None:
    generator = np.random.default_rng(0)
    gamma, beta, mean, x = generator.standard_normal((4, 5))
    variance = generator.uniform(0.1, 2, 5)
    affine = of_batch_norm(gamma, beta, mean, variance, 1e-3)
    wanted = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(affine.scale * x + affine.shift, wanted, rtol=1e-14)


def test_maps_compose() -> None:
    outer = Affine(np.array([2.0, 3.0]), np.array([1.0, 1.0]), axis=1)
    both = outer.after(np.array([5.0, 7.0]), 0.5)
    x = np.array([1.0, -2.0])
    inner = np.array([5.0, 7.0]) * x + 0.5
    np.testing.assert_array_equal(both.scale * x + both.shift, outer.scale * inner + outer.shift)


def test_along_puts_the_channels_on_the_axis() -> None:
    affine = Affine(np.ones(3), np.zeros(3), axis=1)
    assert [array.shape for array in affine.along(4)] == [(1, 3, 1, 1)] * 2
    assert affine.along(2, axis=0)[0].shape == (3, 1)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("scale", [1, np.nan]),
        ("B", [np.inf, 1]),
        ("mean", [1, -np.inf]),
        ("variance", [1, -1]),
        ("mean", [1, 1, 1]),
        ("B", [[1, 1]]),
    ],
)
def test_parameters_that_give_no_map(name, values) -> None:
    parameters = {key: np.ones(2) for key in ("scale", "B", "mean", "variance")} | {name: np.array(values, np.float64)}
    with pytest.raises(BadStatisticsError, match=name):
        of_batch_norm(*parameters.values(), 1e-5)
