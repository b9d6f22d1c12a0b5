"""Sessions on a device give the host's numbers: batches of any size, captured or not, from one thread or two."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from normserve_server.accelerators.tuning import Tuning
from normserve_server.errors import LoadError
from normserve_server.room import check
from normserve_server.session import OnnxSession
from small_networks import WEIGHT, linear

SIZES = (1, 2, 4, 8)
TUNINGS = {
    "plain": Tuning(),
    "nhwc": Tuning(prefer_nhwc=True),
    "exhaustive": Tuning(conv_algo_search="EXHAUSTIVE"),
    "graphs": Tuning(cuda_graphs=True),
}


@pytest.fixture
def opened(accelerator, tmp_path):
    """Opens a session that takes x [batch, 3], and what it fell back from."""
    told = []

    def open_(tuning):
        options = {"threads": 1, "max_batch_size": None, "default_max_batch_size": SIZES[-1]}
        session = OnnxSession(linear(tmp_path / "m.onnx"), accelerator, tuning=tuning, fallen_back=told.append, **options)
        session.captured_sizes = SIZES if tuning.cuda_graphs else ()
        return session, told

    return open_


def run(session, size, number):
    x = np.full((size, 3), number, np.float32)
    y, z = session.run({"x": x})
    np.testing.assert_allclose(y, x @ WEIGHT, rtol=1e-3)
    np.testing.assert_array_equal(z, -x)


@pytest.mark.parametrize("name", TUNINGS)
def test_batches_of_any_size_one_after_another(opened, name):
    session, told = opened(TUNINGS[name])
    for number, size in enumerate((*SIZES, *reversed(SIZES), 3, 1, 7, 8)):
        run(session, size, number)
    assert not told
    assert min(session.times) > 0


@pytest.mark.parametrize("name", ["plain", "graphs"])
def test_two_threads_at_once(opened, name):
    """As with double_buffering: each has memory of its own, and neither reads the other's."""
    session, told = opened(TUNINGS[name])
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(run, session, SIZES[number % 4], number) for number in range(60)]
        for one in runs:
            one.result()
    assert not told


def test_what_would_not_fit_is_refused_with_the_numbers(accelerator, tmp_path):
    file = linear(tmp_path / "m.onnx")
    check(file, accelerator, 0)
    with pytest.raises(LoadError, match=rf"its weights take {file.stat().st_size} bytes, and gpu_mem_limit is 16"):
        check(file, accelerator, 16)


def test_memory_comes_back_when_a_session_goes(accelerator, opened):
    free = []
    for _ in range(3):
        session, _ = opened(TUNINGS["plain"])
        run(session, 4, 1)
        session.leave()
        del session
        accelerator.give_back()
        free.append(accelerator.free_and_total_bytes()[0])
    assert free[2] >= free[1]  # the first loads what the driver then keeps
