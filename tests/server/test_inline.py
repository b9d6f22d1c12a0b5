"""What is computed on the event loop: what is small, and the same whatever number of threads computes it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from normserve_server import operators
from normserve_server.inline import INLINE_BYTES, depends_on_threads, is_small


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape", [(4, 32, 4, 4), (2, 3, 5), (64, 2, 3), (3, 333, 2, 1), (300, 1, 2), (128, 3), (128, 3, 1), (32, 9, 1, 1)]
)
def test_training_gives_the_same_digits_on_any_number_of_threads_where_that_is_said(
    shape: tuple[int, ...], dtype: type
) -> None:
    rng = np.random.default_rng(0)
    same = True
    for _ in range(20):
        x = rng.normal(2, 3, shape).astype(dtype)
        assert is_small(x)
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            made = operators.batch_norm(x, np.zeros(shape[1], dtype), np.ones(shape[1], dtype), training=True)
            found.append(tuple(one.tobytes() for one in made if one is not None))
        same &= len(set(found)) == 1
    assert same or depends_on_threads(x)


def test_what_has_one_element_a_channel_depends_on_the_number_of_threads() -> None:
    shapes = [(9, 3), (9, 3, 1), (9, 3, 1, 1), (9, 3, 2), (9, 3, 1, 2), (0, 3, 2)]
    assert [depends_on_threads(np.empty(shape, np.float32)) for shape in shapes] == [True, True, True, False, False, True]


def test_rows_of_nothing_are_not_small() -> None:
    assert is_small(np.empty((2, 0), np.float32))
    assert not is_small(np.empty((INLINE_BYTES, 0), np.float32))
