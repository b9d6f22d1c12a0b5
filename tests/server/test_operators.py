"""The operators against torch, over a grid; FP16 and BF16 against torch's own float32 kernels, rounded once."""

import math
import threading
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from normserve_server import operators
from normserve_server.errors import InvalidRequestError

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
SHAPES = [(4, 6), (2, 6, 5), (2, 6, 3, 4), (2, 6, 2, 3, 2), (3, 6, 0)]
RNG = np.random.default_rng(0)


def draw(shape: tuple[int, ...], dtype: Any, *, positive: bool = False) -> np.ndarray:
    values = RNG.normal(1.5, 2.0, shape)
    return (np.abs(values) + 0.1 if positive else values).astype(dtype)


def to_torch(array: np.ndarray | None) -> torch.Tensor | None:
    """In the type that torch computes it in."""
    if array is None:
        return None
    halves = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
    return torch.from_numpy(array.astype(np.float32) if array.dtype in halves else array.copy())


def rounded(tensor: torch.Tensor, dtype: Any) -> np.ndarray:
    return tensor.numpy().astype(dtype)


def same(got: np.ndarray | None, wanted: torch.Tensor, dtype: Any) -> None:
    assert got is not None
    assert got.dtype == np.dtype(dtype)
    # Bit for bit: the kernel is the same one, and so is the rounding.
    np.testing.assert_array_equal(got.astype(np.float64), rounded(wanted, dtype).astype(np.float64))


@pytest.mark.parametrize(
    ("dtype", "shape", "affine", "training", "momentum"),
    [*product(DTYPES, SHAPES, [True, False], [True, False], [0.1, 0.0, 1.0])],
)
def test_batch_norm(dtype: Any, shape: tuple[int, ...], affine: bool, training: bool, momentum: float) -> None:
    x, mean, var = draw(shape, dtype), draw((6,), dtype), draw((6,), dtype, positive=True)
    weight, bias = (draw((6,), dtype), draw((6,), dtype)) if affine else (None, None)
    before = mean.copy()
    t_mean, t_var = to_torch(mean), to_torch(var)
    wanted = F.batch_norm(to_torch(x), t_mean, t_var, to_torch(weight), to_torch(bias), training, momentum, 1e-5)
    got = operators.batch_norm(x, mean, var, weight, bias, training, momentum, 1e-5)
    same(got.output, wanted, dtype)
    np.testing.assert_array_equal(mean.astype(np.float64), before.astype(np.float64))
    if training:
        assert t_mean is not None
        assert t_var is not None
        same(got.running_mean, t_mean, dtype)
        same(got.running_var, t_var, dtype)
    else:
        assert got.running_mean is None


@pytest.mark.parametrize(
    ("dtype", "shape", "affine", "use_input_stats", "tracked"),
    # Without input statistics and without tracked ones there is nothing to normalize by: torch refuses it.
    [case for case in product(DTYPES, SHAPES[1:4], [True, False], [True, False], [True, False]) if case[3] or case[4]],
)
def test_instance_norm(dtype: Any, shape: tuple[int, ...], affine: bool, use_input_stats: bool, tracked: bool) -> None:
    x = draw(shape, dtype)
    mean, var = (draw((6,), dtype), draw((6,), dtype, positive=True)) if tracked else (None, None)
    weight, bias = (draw((6,), dtype), draw((6,), dtype)) if affine else (None, None)
    t_mean, t_var = to_torch(mean), to_torch(var)
    wanted = F.instance_norm(to_torch(x), t_mean, t_var, to_torch(weight), to_torch(bias), use_input_stats, 0.3)
    got = operators.instance_norm(x, mean, var, weight, bias, use_input_stats, 0.3)
    same(got.output, wanted, dtype)
    assert (got.running_mean is not None) == (tracked and use_input_stats)
    if t_mean is not None and use_input_stats:
        same(got.running_mean, t_mean, dtype)


@pytest.mark.parametrize(("dtype", "shape", "affine"), [*product(DTYPES, SHAPES, [True, False])])
def test_layer_group_and_rms_norm(dtype: Any, shape: tuple[int, ...], affine: bool) -> None:
    x = draw(shape, dtype)
    trailing = shape[1:]
    weight, bias = (draw(trailing, dtype), draw(trailing, dtype)) if affine else (None, None)
    got = operators.layer_norm(x, trailing, weight, bias)
    same(got.output, F.layer_norm(to_torch(x), trailing, to_torch(weight), to_torch(bias)), dtype)
    same(operators.rms_norm(x, trailing, weight).output, F.rms_norm(to_torch(x), trailing, to_torch(weight)), dtype)
    channel = (draw((6,), dtype), draw((6,), dtype)) if affine else (None, None)
    got = operators.group_norm(x, 3, *channel)
    same(got.output, F.group_norm(to_torch(x), 3, *map(to_torch, channel)), dtype)


@pytest.mark.parametrize(("dtype", "shape", "size"), [*product(DTYPES, SHAPES[1:], [1, 2, 3, 5, 12])])
def test_local_response_norm(dtype: Any, shape: tuple[int, ...], size: int) -> None:
    x = draw(shape, dtype)
    for arguments in ((), (0.5, 2.0, 0.25)):
        got = operators.local_response_norm(x, size, *arguments)
        same(got.output, F.local_response_norm(to_torch(x), size, *arguments), dtype)


@pytest.mark.parametrize("size", [13, 14, 100, 2**40])
def test_a_window_far_beyond_the_channels_is_the_mean_over_all_of_them_and_zeros(size: int) -> None:
    x = draw((2, 6, 4), np.float64)
    wanted = x / (1 + 5e5 * np.square(x).sum(1, keepdims=True) / size) ** 0.75
    np.testing.assert_allclose(operators.local_response_norm(x, size, 5e5).output, wanted, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "shape", "p"), [*product(DTYPES, [(7,), *SHAPES], [0.0, 0.5, 1.0, 2.0, 3.0, math.inf])])
def test_normalize(dtype: Any, shape: tuple[int, ...], p: float) -> None:
    x = draw(shape, dtype)
    for dim in range(-len(shape), len(shape)):
        if x.size == 0 and shape[dim] == 0 and math.isinf(p):
            continue  # which both refuse: there is no greatest of nothing
        got = operators.normalize(x, p, dim, 0.5)
        same(got.output, F.normalize(to_torch(x), p, dim, 0.5), dtype)


def test_a_zero_norm_divides_by_eps() -> None:
    assert (
        operators.normalize(np.zeros((2, 3)), eps=0.0).output.tolist() != operators.normalize(np.zeros((2, 3))).output.tolist()
    )
    assert operators.normalize(np.full((1, 2), 1e-13)).output.tolist() == [[0.1, 0.1]]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_input_takes_float32_parameters(dtype: Any) -> None:
    x, mean, var = draw((4, 6), dtype), draw((6,), np.float32), draw((6,), np.float32, positive=True)
    got = operators.batch_norm(x, mean, var, training=True)
    assert got.output.dtype == np.dtype(dtype)
    assert got.running_mean is not None
    assert got.running_mean.dtype == np.float32


def test_rms_norm_eps_none_is_the_machine_epsilon_of_the_computing_type() -> None:
    x = np.full((1, 4), 1e-5)
    for dtype, eps in ((np.float32, 2**-23), (np.float64, 2**-52), (np.float16, 2**-23)):
        value = float(np.asarray(x, dtype)[0, 0])
        got = float(operators.rms_norm(x.astype(dtype), (4,)).output[0, 0])
        assert got == pytest.approx(value / math.sqrt(value**2 + eps), rel=1e-3)


def test_running_variance_is_unbiased_and_output_is_biased() -> None:
    x = np.array([[1.0], [3.0]])
    got = operators.batch_norm(x, np.zeros(1), np.zeros(1), training=True, momentum=1.0, eps=1e-12)
    assert got.running_var is not None
    assert got.running_var.tolist() == [2.0]
    np.testing.assert_allclose(got.output, [[-1.0], [1.0]])


def test_nan_passes_as_in_torch() -> None:
    x = np.array([[np.nan, 1.0], [2.0, 3.0]], np.float32)
    output = operators.batch_norm(x, np.zeros(2, np.float32), np.ones(2, np.float32)).output
    assert np.isnan(output).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("shape", [(2, 3, 4), (4, 16, 64, 64)])
def test_an_eps_of_nan_is_no_training(shape: tuple[int, ...]) -> None:
    mean, var = np.zeros(shape[1], np.float32), np.ones(shape[1], np.float32)
    normalized = operators.batch_norm(np.ones(shape, np.float32), mean, var, eps=float("nan"))
    assert np.isnan(normalized.output).all()
    assert (normalized.running_mean, normalized.running_var) == (None, None)
    assert (mean == 0).all()
    assert (var == 1).all()


@pytest.mark.parametrize("operator", [operators.layer_norm, operators.rms_norm])
def test_more_extents_than_a_tensor_has_are_not_all_read(operator: Any) -> None:
    with pytest.raises(InvalidRequestError, match="normalized_shape has at most 64 extents, got 65"):
        operator(np.ones((2, 2), np.float32), [1] * 65)


def test_unaligned_and_strided_input() -> None:
    raw = np.zeros(1 + 4 * 12, np.uint8)
    x = raw[1:].view(np.float32).reshape(2, 6)
    x[...] = draw((2, 6), np.float32)
    assert not x.flags.aligned
    np.testing.assert_array_equal(operators.layer_norm(x, (6,)).output, operators.layer_norm(x.copy(), (6,)).output)
    np.testing.assert_array_equal(operators.layer_norm(x.T, (2,)).output, operators.layer_norm(x.T.copy(), (2,)).output)


X = np.ones((4, 3), np.float32)
C3 = np.ones(3, np.float32)
C2 = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: operators.batch_norm(X[:1], None, None, training=True),
            "Expected more than 1 value per channel when training",
        ),
        (lambda: operators.batch_norm(X, C3, C3, training=True, eps=0.0), "eps must be positive during training"),
        (lambda: operators.batch_norm(X, C3, C3, eps=-1.0), "eps must be non-negative"),
        (lambda: operators.batch_norm(X, None, None), "running_mean must be defined in evaluation mode"),
        (lambda: operators.batch_norm(X, C2, C2), "running_mean should contain 3 elements not 2"),
        (lambda: operators.batch_norm(X, C3[None], C3[None]), r"running_mean has one axis, the channels, got shape \[1, 3\]"),
        (lambda: operators.batch_norm(X, C3, C3, momentum=7.0, training=True), r"momentum is in \[0, 1\], got 7"),
        (lambda: operators.batch_norm(X, C3.astype(float), C3), "running_mean beside FP32 input is FP32, got FP64"),
        (lambda: operators.batch_norm(X.astype(int), C3, C3), "input is one of FP16, BF16, FP32, FP64, got INT64"),
        (lambda: operators.instance_norm(X[:, :, None]), "Expected more than 1 spatial element"),
        (lambda: operators.instance_norm(X[:, :, None], use_input_stats=False), "running_mean and running_var to be defined"),
        (lambda: operators.group_norm(X, 2), "divisible by num_groups"),
        (lambda: operators.group_norm(X, 0), "num_groups must be > 0, got 0"),
        (lambda: operators.layer_norm(X, (2,)), "Given normalized_shape"),
        (lambda: operators.layer_norm(X, ()), "normalized_shape"),
        (lambda: operators.rms_norm(X, (3,), C2), "weight"),
        (lambda: operators.local_response_norm(X, 2), "Expected 3D or higher"),
        (lambda: operators.local_response_norm(X[None], 0), "size must be > 0, got 0"),
        (lambda: operators.normalize(X, dim=2), "Dimension out of range"),
        (lambda: operators.normalize(X.astype(int)), "input is one of"),
    ],
)
def test_what_torch_refuses_is_an_invalid_request(call: Any, text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        call()


def test_one_thread_computes_alone_and_another_with_all() -> None:
    """In threads of their own, since what they set stays with them."""

    def loop() -> None:
        threads.append(operators.use_one_thread())
        loop_is_set.set()
        worker_is_warm.wait(10)
        seen.append(torch.get_num_threads())

    def worker() -> None:
        loop_is_set.wait(10)
        operators.warm_up(threads[0] + 1, operators.Place())
        seen.append(torch.get_num_threads())
        worker_is_warm.set()

    before = torch.get_num_threads()
    threads: list[int] = []
    seen: list[int] = []
    loop_is_set, worker_is_warm = threading.Event(), threading.Event()
    both = [threading.Thread(target=run) for run in (loop, worker)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    torch.set_num_threads(before)
    assert threads == [before]
    assert seen == [before + 1, 1]
