"""The operators on a device of its own memory, which copies so late that a wait that was forgotten gives wrong numbers."""

from collections.abc import Callable

import numpy as np
import pytest
import structlog
import torch
from fake_device import FakeAccelerator
from normserve_proto.tensors import DTYPES, Array
from normserve_server import operators
from normserve_server.errors import InvalidRequestError
from normserve_server.operators import Compute, Place, place

SHAPE = (4, 8, 16, 32)
EVERY: dict[str, Compute] = {
    "batch_norm": lambda x: operators.batch_norm(x, C[0], C[1], C[2], C[3]),
    "batch_norm training": lambda x: operators.batch_norm(x, C[0], C[1], C[2], C[3], training=True, momentum=0.3),
    "instance_norm": lambda x: operators.instance_norm(x, None, None, C[2], C[3]),
    "instance_norm running": lambda x: operators.instance_norm(x, C[0], C[1], C[2], C[3], momentum=0.3),
    "instance_norm eval": lambda x: operators.instance_norm(x, C[0], C[1], use_input_stats=False),
    "layer_norm": lambda x: operators.layer_norm(x, (32,), W, W),
    "group_norm": lambda x: operators.group_norm(x, 4, C[2], C[3]),
    "rms_norm": lambda x: operators.rms_norm(x, (32,), W),
    "local_response_norm": lambda x: operators.local_response_norm(x, 3),
    "normalize": lambda x: operators.normalize(x, dim=-1),
}
C = np.random.default_rng(1).uniform(0.5, 2, (4, 8)).astype(np.float32)
W = np.linspace(0.5, 2, 32, dtype=np.float32)


@pytest.fixture(autouse=True)
def _all_are_big(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "LEAST_BYTES", 1)


def numbers(datatype: str = "FP32") -> Array:
    return np.random.default_rng(0).normal(3, 2, SHAPE).astype(DTYPES[datatype])


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "BF16"])
@pytest.mark.parametrize("name", EVERY)
def test_it_computes_the_same_there(name: str, datatype: str) -> None:
    device, x = FakeAccelerator(), numbers(datatype)
    here, there = EVERY[name](x), Place(device, pytest.fail).run(x, EVERY[name])
    for wanted, got in zip(here, there, strict=True):
        assert (wanted is None) == (got is None)
        if wanted is not None:
            assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
            tolerance = {"FP32": 1e-5, "FP16": 1e-3, "BF16": 1e-2}[datatype]  # rounded once, by kernels that differ
            np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance)
    copies = device.ordered("copy in", "copy out")
    assert copies[0] == ("copy in", x.nbytes)
    assert copies.count(("copy out", x.nbytes)) == 1
    assert len([copy for copy in copies if copy[0] == "copy out"]) == sum(one is not None for one in here)


def test_running_statistics_come_back_right_and_the_callers_stay() -> None:
    x, count = numbers(), np.prod(SHAPE) // SHAPE[1]
    mean, var = C[0].copy(), C[1].copy()
    there = Place(FakeAccelerator(), pytest.fail).run(x, EVERY["batch_norm training"])
    wide = x.astype(np.float64)
    np.testing.assert_allclose(there.running_mean, 0.7 * mean + 0.3 * wide.mean((0, 2, 3)), rtol=1e-6)
    unbiased = wide.var((0, 2, 3)) * count / (count - 1)
    np.testing.assert_allclose(there.running_var, 0.7 * var + 0.3 * unbiased, rtol=1e-6)
    assert (mean == C[0]).all()
    assert (var == C[1]).all()


def test_a_call_leaves_nothing_there() -> None:
    device = FakeAccelerator(total_bytes=2 * numbers().nbytes)
    where = Place(device, pytest.fail)
    for _ in range(5):
        where.run(numbers(), EVERY["batch_norm"])
        device.give_back()
    free, total = device.free_and_total_bytes()
    assert free == total


def test_the_warm_up_runs_every_operator_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    device, threads = FakeAccelerator(), torch.get_num_threads()
    operators.warm_up(threads, Place(device, pytest.fail))
    assert device.ordered("copy in") == [("copy in", place.LEAST_BYTES)] * 7


def test_small_and_foreign_inputs_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeAccelerator()
    where = Place(device, pytest.fail)
    with pytest.raises(InvalidRequestError, match="input is one of FP16, BF16, FP32, FP64, got INT32"):
        where.run(np.zeros(SHAPE, np.int32), operators.normalize)
    monkeypatch.setattr(place, "LEAST_BYTES", numbers().nbytes + 1)
    where.run(numbers(), operators.normalize)
    assert not device.journal


class Failures:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def test_what_does_not_fit_there_is_computed_here() -> None:
    failures, x = Failures(), numbers()
    where = Place(FakeAccelerator(total_bytes=x.nbytes - 1), failures)
    with structlog.testing.capture_logs() as logs:
        same(where, x)
    assert failures.count == 1
    assert "bytes of memory" in logs[0]["error"]
    same(where, numbers("FP16"))  # has room
    assert failures.count == 1


def test_a_broken_device_is_left_alone() -> None:
    device, failures = FakeAccelerator(), Failures()
    where = Place(device, failures)
    device.broken_by = "illegal memory access"
    with structlog.testing.capture_logs() as logs:
        same(where, numbers())
    assert (failures.count, where.apart) == (1, False)
    assert logs[0]["log_level"] == "error"
    assert logs[0]["reason"] == "illegal memory access"
    same(where, numbers())
    assert failures.count == 1


def test_memory_that_torch_lacks_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    failures, computed = Failures(), []

    def full(x: torch.Tensor, *_: object) -> torch.Tensor:
        computed.append(x)
        if len(computed) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    monkeypatch.setattr(torch, "layer_norm", full)
    assert (Place(FakeAccelerator(), failures).run(numbers(), EVERY["layer_norm"]).output == numbers()).all()
    assert (failures.count, len(computed)) == (1, 2)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: operators.layer_norm(x, (31,)),
        lambda x: operators.group_norm(x, 3),
        lambda x: operators.batch_norm(x, W, W),
        lambda x: operators.normalize(x, dim=4),
        lambda x: operators.rms_norm(x, (32,), W.astype(np.int64)),
    ],
)
def test_a_refusal_has_the_hosts_words_and_is_no_failure_of_the_device(compute: Callable[..., object]) -> None:
    where = Place(FakeAccelerator(), pytest.fail)
    with pytest.raises(InvalidRequestError) as here:
        compute(numbers())
    with pytest.raises(InvalidRequestError) as there:
        where.run(numbers(), compute)  # type: ignore[arg-type]
    assert str(there.value) == str(here.value)


def same(where: Place, x: Array) -> None:
    np.testing.assert_array_equal(where.run(x, EVERY["layer_norm"]).output, EVERY["layer_norm"](x).output)
