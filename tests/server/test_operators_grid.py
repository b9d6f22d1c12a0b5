"""Every operator against torch over a generated grid: the same numbers bit for bit, or the same refusal in the same words."""

from collections.abc import Callable
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from normserve_proto.tensors import Array
from normserve_server import operators
from normserve_server.errors import InvalidRequestError
from normserve_server.operators import Normalized

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
SHAPES = [(6,), (4, 6), (1, 6), (2, 6, 5), (1, 6, 1), (2, 6, 3, 4), (2, 6, 2, 3, 2), (2, 6, 1, 2, 1, 3)]
EMPTY = [(0, 6), (3, 0), (0, 6, 5), (2, 6, 0), (2, 0, 4), (0, 6, 2, 2), (2, 6, 0, 3)]
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
}
EPS = [1e-5, 0.0, -1.0]
REFUSALS = (ValueError, RuntimeError, IndexError, TypeError)


def draw(shape: tuple[int, ...], dtype: Any, *, positive: bool = False) -> Array:
    values = np.random.default_rng(sum(shape)).normal(1.5, 2.0, shape)
    return (np.abs(values) + 0.1 if positive else values).astype(dtype)


def to_torch(value: Any) -> Any:
    """In the type that torch computes it in, copied, since it writes statistics in place."""
    if not isinstance(value, np.ndarray):
        return value
    half = value.dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
    return torch.from_numpy(np.array(value, np.float32 if half else None, order="C"))


def agree(name: str, x: Array, *arguments: Any) -> Normalized | None:
    """Holds an operator to torch's; gives what it gave, None where both refuse."""
    theirs = [to_torch(value) for value in arguments]
    wanted, words = attempt(lambda: getattr(F, name)(to_torch(x), *theirs))
    if wanted is None:
        with pytest.raises(InvalidRequestError) as refused:
            getattr(operators, name)(x, *arguments)
        assert str(refused.value) == words
        return None
    got = getattr(operators, name)(x, *arguments)
    same(got.output, wanted, x.dtype)
    for updated, given, tensor in zip((got.running_mean, got.running_var), arguments, theirs, strict=False):
        if updated is not None:
            same(updated, tensor, given.dtype)
    return got


def attempt(call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor | None, str]:
    try:
        return call(), ""
    except REFUSALS as error:
        return None, str(error)


def same(got: Array, wanted: torch.Tensor, dtype: Any) -> None:
    assert got.dtype == dtype
    with np.errstate(over="ignore"):
        rounded = wanted.numpy().astype(dtype)
    np.testing.assert_array_equal(got.astype(np.float64), rounded.astype(np.float64))


def affine(shape: tuple[int, ...], dtype: Any, kind: str) -> tuple[Array | None, Array | None]:
    weight, bias = draw(shape, dtype), draw((*shape,), dtype) - np.asarray(1, dtype)
    return {"neither": (None, None), "weight": (weight, None), "bias": (None, bias), "both": (weight, bias)}[kind]


def channels(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) > 1 else shape[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
def test_operators_with_statistics(name: str, layout: str, dtype: Any) -> None:
    answered = 0
    for shape, kind, tracked, training, momentum, eps in product(
        SHAPES + EMPTY, ("neither", "both"), (True, False), (True, False), (0.1, 0.0, 1.0), EPS
    ):
        size = (channels(shape),)
        mean, var = (draw(size, dtype), draw(size, dtype, positive=True)) if tracked else (None, None)
        x = LAYOUTS[layout](draw(shape, dtype))
        got = agree(name, x, mean, var, *affine(size, dtype, kind), training, momentum, eps)
        if got is not None:
            answered += 1
            assert (got.running_mean is not None) == (tracked and training)
    assert answered > 300


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operators_over_trailing_axes(layout: str, dtype: Any) -> None:
    for shape, kind, axes, eps in product(SHAPES + EMPTY, ("neither", "weight", "bias", "both"), (1, 2, 3), EPS):
        x, trailing = LAYOUTS[layout](draw(shape, dtype)), shape[-axes:]
        weight, bias = affine(trailing, dtype, kind)
        agree("layer_norm", x, list(trailing), weight, bias, eps)
        agree("rms_norm", x, list(trailing), weight, eps)
        agree("rms_norm", x, list(trailing), weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operators_over_channels(layout: str, dtype: Any) -> None:
    for shape in SHAPES + EMPTY:
        x = LAYOUTS[layout](draw(shape, dtype))
        for kind, groups, eps in product(("neither", "weight", "bias", "both"), (1, 2, 4, 6), EPS):
            agree("group_norm", x, groups, *affine((channels(shape),), dtype, kind), eps)
        for size, alpha, beta, k in product((1, 2, 5), (1e-4, 0.5), (0.75, 2.0), (1.0, 0.0)):
            agree("local_response_norm", x, size, alpha, beta, k)
        for p, dim, eps in product((2.0, 1.0, 0.0, float("inf"), float("-inf")), (-1, 0, 1, 3), (1e-12, 2.0)):
            agree("normalize", x, p, dim, eps)


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"])
@pytest.mark.parametrize("bad", [(5,), (6, 1), (0,)])
def test_parameters_that_do_not_fit_are_refused_in_torchs_words(name: str, bad: tuple[int, ...]) -> None:
    for shape in ((2, 6, 4), (64, 6, 256)):  # small, and big enough for the faster ways
        x, wrong = draw(shape, np.float32), np.ones(bad, np.float32)
        first = {"group_norm": (3,), "layer_norm": ([shape[-1]],), "rms_norm": ([shape[-1]],)}.get(name, (None, None))
        rest = (None, True) if name == "batch_norm" else ()
        got = agree(name, x, *first, wrong, *rest)
        assert got is None or (name, bad) == ("batch_norm", (6, 1))  # which torch takes for as many channels


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("shape", [(4, 3, 5), (64, 3, 1024)])
def test_what_is_no_number_passes_as_in_torch(value: float, shape: tuple[int, ...]) -> None:
    x = draw(shape, np.float32)
    x[1, 1, 1] = value
    statistics = np.zeros(3, np.float32), np.ones(3, np.float32)
    agree("batch_norm", x, *statistics, None, None, True)  # one channel of which keeps it from the faster way
    agree("batch_norm", x, statistics[0], -statistics[1])  # a negative variance
    agree("layer_norm", x, [shape[-1]])
    agree("normalize", x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_number_passes_as_in_torch_also_over_many_channels(value: float) -> None:
    x = draw((16, 8, 1024), np.float32)
    x[1, 1, 1] = value
    agree("normalize", x)
    agree("local_response_norm", x, 3)


BIG = [(32, 64, 28, 28), (1, 8, 158, 158), (8, 64, 3125), (64, 32, 7, 9), (16, 8, 2, 4, 64)]


@pytest.mark.parametrize("shape", BIG)
@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (1.5, 2.0), (1000.0, 1.0), (-3e4, 0.5)])
def test_training_of_big_tensors_is_as_near_to_the_truth_as_torch_and_a_unit_in_the_last_place(
    shape: tuple[int, ...], mean: float, spread: float
) -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(mean, spread, shape).astype(np.float32)
    weight, bias = (rng.normal(size=shape[1]).astype(np.float32) for _ in range(2))
    old = rng.random(shape[1], np.float32), rng.random(shape[1], np.float32)
    got = operators.batch_norm(x, *old, weight, bias, True, 0.3)
    statistics = [torch.from_numpy(value.astype(np.float64)) for value in old]
    true = F.batch_norm(
        torch.from_numpy(x).double(), *statistics, *(torch.from_numpy(p).double() for p in (weight, bias)), True, 0.3
    ).numpy()
    theirs = F.batch_norm(*(torch.from_numpy(value.copy()) for value in (x, *old, weight, bias)), True, 0.3).numpy()
    axes = (0, *range(2, x.ndim))
    ulp = np.spacing(np.abs(true).max(axes, keepdims=True).astype(np.float32)).astype(np.float64)
    assert (np.abs(got.output - true) / ulp).max() <= (np.abs(theirs - true) / ulp).max() + 1
    for updated, exact in zip((got.running_mean, got.running_var), statistics, strict=True):
        assert updated is not None
        rounded = exact.numpy().astype(np.float32)
        # A mean near zero is the sum of what is not: it is as exact as the numbers that were summed up.
        assert (np.abs(updated - rounded) <= np.spacing(np.abs(rounded)) + 1e-8 * spread).all()


@pytest.mark.parametrize("shape", BIG)
@pytest.mark.parametrize("kind", ["neither", "weight", "bias", "both"])
def test_instance_norm_of_big_tensors_is_group_norm(shape: tuple[int, ...], kind: str) -> None:
    x = draw(shape, np.float32)
    weight, bias = affine((shape[1],), np.float32, kind)
    wanted = F.group_norm(*(to_torch(value) for value in (x, shape[1], weight, bias)))
    same(operators.instance_norm(x, None, None, weight, bias).output, wanted, np.float32)
    true = F.instance_norm(
        to_torch(x.astype(np.float64)),
        None,
        None,
        *(None if value is None else to_torch(value.astype(np.float64)) for value in (weight, bias)),
    )
    np.testing.assert_allclose(operators.instance_norm(x, None, None, weight, bias).output, true.numpy(), atol=5e-6)


LENGTHS: list[tuple[str, tuple[Any, ...]]] = [
    ("normalize", ()),
    ("normalize", (2.0, 1, 5.0)),
    *(
        ("local_response_norm", arguments)
        for arguments in [(1,), (2,), (3, 0.5), (5, 1e-2, 0.5), (8, 0.0, 2.0, 3.0), (7, 1.0, -1.0)]
    ),
]


@pytest.mark.parametrize("shape", [*BIG, (300, 8, 40), (2, 500, 77), (1, 9, 100_000), (700, 8, 128)])
@pytest.mark.parametrize(("name", "arguments"), LENGTHS)
def test_lengths_in_big_tensors_are_a_unit_in_the_last_place_from_the_truth(
    name: str, arguments: tuple[Any, ...], shape: tuple[int, ...]
) -> None:
    x = draw(shape, np.float32)
    got = getattr(operators, name)(x, *arguments).output
    true = getattr(F, name)(torch.from_numpy(x).double(), *arguments).float().numpy()
    assert got.shape == shape
    assert (np.abs(got - true) <= np.spacing(np.abs(true))).all()


@pytest.mark.parametrize("arguments", [(3, -1e-4), (3, 1e-4, 0.75, -2.0), (40,), (3, np.nan), (3, np.inf)])
def test_local_response_norm_of_big_tensors_with_unusual_arguments_is_torchs(arguments: tuple[float, ...]) -> None:
    agree("local_response_norm", draw((16, 32, 256), np.float32), *arguments)


def test_a_first_sample_unlike_the_others_costs_no_exactness() -> None:
    x = draw((33, 8, 4096), np.float32)
    x[0] += 3000
    got = operators.batch_norm(x, np.zeros(8, np.float32), np.zeros(8, np.float32), training=True, momentum=1.0)
    assert got.running_mean is not None
    assert got.running_var is not None
    np.testing.assert_allclose(got.running_mean, x.astype(np.float64).mean((0, 2)), rtol=2e-7)
    np.testing.assert_allclose(got.running_var, x.astype(np.float64).var((0, 2), ddof=1), rtol=4e-7)
