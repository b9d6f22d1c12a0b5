"""Layers over plain state against torch's modules, bit for bit: outputs, running statistics, counters."""

import itertools
import tracemalloc
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest
import torch
from normserve_server.errors import InvalidRequestError
from normserve_server.normalizers.batch_norm import BatchNorm
from normserve_server.normalizers.instance_norm import InstanceNorm
from normserve_server.normalizers.layer import Layer, State
from normserve_server.normalizers.running_norm import PART_ELEMENTS, RunningNorm

BATCH_NORMS = {1: torch.nn.BatchNorm1d, 2: torch.nn.BatchNorm2d, 3: torch.nn.BatchNorm3d}
INSTANCE_NORMS = {1: torch.nn.InstanceNorm1d, 2: torch.nn.InstanceNorm2d, 3: torch.nn.InstanceNorm3d}
DTYPES = {"FP32": torch.float32, "FP64": torch.float64}
GRID = list(itertools.product(DTYPES, (True, False), (True, False), (0.1, 0.0, 1.0, 0.37, None)))
AVERAGES_IN_FLOAT64 = ("FP32", True, None)  # where torch averages in float32: a test of its own
BATCH_SHAPES = {
    1: [(4, 5), (32, 5), (3, 5, 7), (0, 5), (2, 5, 0), (1, 5, 4)],
    2: [(4, 5, 6, 7), (2, 5, 1, 1), (0, 5, 2, 2)],
    3: [(2, 5, 3, 4, 2)],
}
INSTANCE_SHAPES = {
    1: [(4, 5, 6), (5, 7), (130, 5, 3), (3, 5, 0), (0, 5, 3)],
    2: [(3, 5, 2, 3), (5, 4, 4)],
    3: [(2, 5, 3, 4, 2), (5, 2, 2, 2)],
}


def train_both(layer: Layer, module: torch.nn.Module, shapes: Sequence[tuple[int, ...]]) -> State:
    """Every shape through both, in training and in evaluation; gives the layer's last state."""
    random = torch.Generator().manual_seed(0)
    state = layer.initial()
    for shape in shapes:
        x = torch.randn(shape, generator=random, dtype=DTYPES[layer.datatype]) * 3 + 1
        for training in (True, False):
            expected = module.train(training)(x).detach().numpy()
            if training and layer.updates:
                state = layer.merged(state, layer.observed(x.numpy()))
            assert_same({"output": layer.normalized(x.numpy(), state, training=training)}, {"output": expected})
        assert_same(layer.exported(state), {name: value.numpy() for name, value in module.state_dict().items()})
    return state


def assert_same(ours: State, theirs: State) -> None:
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape), name
        same = (ours[name] == array) | (np.isnan(ours[name]) & np.isnan(array))
        assert same.all(), (name, ours[name], array)
        signs = np.isnan(array) | (np.signbit(ours[name]) == np.signbit(array)) if array.dtype.kind == "f" else True
        assert np.all(signs), name


@pytest.mark.parametrize("dimensions", BATCH_SHAPES)
@pytest.mark.parametrize(
    ("datatype", "affine", "tracks", "momentum"), [case for case in GRID if (case[0], case[2], case[3]) != AVERAGES_IN_FLOAT64]
)
def test_batch_norm_is_torchs(dimensions: int, datatype: str, affine: bool, tracks: bool, momentum: float | None) -> None:
    layer = BatchNorm(5, dimensions, 1e-5, momentum, affine, tracks, datatype)
    module = BATCH_NORMS[dimensions](5, 1e-5, momentum, affine, tracks, dtype=DTYPES[datatype])
    train_both(layer, module, BATCH_SHAPES[dimensions])


def test_cumulative_averages_in_float32_are_float64s_rounded() -> None:
    random = np.random.default_rng(0)
    layer = BatchNorm(3, momentum=None)
    state = layer.initial()
    batches = [random.normal(5, 2, (8, 3)).astype(np.float32) for _ in range(300)]
    for batch in batches:
        state = layer.merged(state, layer.observed(batch))
    for name, function in (("running_mean", lambda x: x.mean(0)), ("running_var", lambda x: x.var(0, ddof=1))):
        truth = np.mean([function(batch.astype(np.float64)) for batch in batches], 0)
        np.testing.assert_allclose(state[name], truth, rtol=1e-7)  # each batch's own is rounded by the kernel
        np.testing.assert_array_equal(layer.exported(state)[name], state[name].astype(np.float32))


@pytest.mark.parametrize("dimensions", INSTANCE_SHAPES)
@pytest.mark.parametrize(("datatype", "affine", "tracks", "momentum"), GRID)
@pytest.mark.filterwarnings("ignore:input's size at dim")
def test_instance_norm_is_torchs(dimensions: int, datatype: str, affine: bool, tracks: bool, momentum: float | None) -> None:
    layer = InstanceNorm(5, dimensions, 1e-5, momentum, affine, tracks, datatype)
    module = INSTANCE_NORMS[dimensions](5, 1e-5, momentum, affine, tracks, dtype=DTYPES[datatype])
    train_both(layer, module, [shape for shape in INSTANCE_SHAPES[dimensions] if shape[0] or not affine])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
def test_nan_and_infinity_pass_as_in_torch(kind: type, value: float) -> None:
    module = {BatchNorm: torch.nn.BatchNorm1d, InstanceNorm: torch.nn.InstanceNorm1d}[kind](5, track_running_stats=True)
    layer = kind(5, 1, affine=kind is BatchNorm)
    x = np.ones((4, 5, 3), np.float32)
    x[0, 2] = value
    state = layer.initial()
    for batch in (x, np.ones_like(x)):
        state = layer.merged(state, layer.observed(batch))
        expected = module(torch.from_numpy(batch)).detach().numpy()
        np.testing.assert_array_equal(layer.normalized(batch, state, training=True), expected)
    assert_same(layer.exported(state), {name: array.numpy() for name, array in module.state_dict().items()})


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
def test_halves_compute_in_float32_and_are_rounded_once(kind: type, dtype: type) -> None:
    layer = kind(3, 1)
    x = np.random.default_rng(1).normal(2, 3, (6, 3, 8)).astype(dtype)
    wide = layer.merged(layer.initial(), layer.observed(x.astype(np.float32)))
    state = layer.merged(layer.initial(), layer.observed(x))
    assert_same(state, wide)
    for training in (True, False):
        output = layer.normalized(x, state, training=training)
        expected = layer.normalized(x.astype(np.float32), state, training=training).astype(dtype)
        assert output.dtype == dtype
        np.testing.assert_array_equal(output.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_running_norm_is_the_moments_of_all_samples_in_any_order(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(2)
    layer = RunningNorm(shape)
    parts = [random.normal(1e3, 1, (n, *shape)) for n in (1, 5, 0, 64, 1, 300)]
    everything = np.concatenate(parts)
    for order in (parts, parts[::-1]):
        state = layer.initial()
        for part in order:
            state = layer.merged(state, layer.observed(part))
        assert state["count"] == len(everything)
        np.testing.assert_allclose(state["mean"], everything.mean(0), rtol=1e-14)
        np.testing.assert_allclose(state["var"], everything.var(0), rtol=1e-10)
    expected = (everything - everything.mean(0)) / np.sqrt(everything.var(0) + 1e-8)
    np.testing.assert_allclose(layer.normalized(everything, state, training=False), expected, rtol=1e-8, atol=1e-8)


def test_running_norm_looks_at_a_big_input_part_by_part() -> None:
    layer = RunningNorm((3, 5), clip=2)
    x = np.random.default_rng(0).normal(7, 3, (2, 5 * PART_ELEMENTS // 30 + 1, 3, 5)).astype(np.float32)
    samples = x.reshape(-1, 3, 5).astype(np.float64)
    tracemalloc.start()
    state = layer.merged(layer.initial(), layer.observed(x))
    y = layer.normalized(x, state, training=False)
    assert tracemalloc.get_traced_memory()[1] < y.nbytes + 4 * 8 * PART_ELEMENTS
    tracemalloc.stop()
    assert state["count"] == len(samples)
    np.testing.assert_allclose(state["mean"], samples.mean(0), rtol=1e-13)
    np.testing.assert_allclose(state["var"], samples.var(0), rtol=1e-13)
    wanted = ((samples - state["mean"]) / np.sqrt(state["var"] + layer.eps)).clip(-2, 2).astype(np.float32)
    np.testing.assert_array_equal(y, wanted.reshape(x.shape))


def test_running_norm_clips_takes_one_sample_and_keeps_the_dtype() -> None:
    layer = RunningNorm((2,), clip=1.5)
    sample = np.array([100, 0.5], np.float32)
    output = layer.normalized(sample, layer.initial(), training=False)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, [1.5, 0.5])
    assert layer.merged(layer.initial(), layer.observed(sample))["count"] == 1


ZERO = np.zeros((2, 4), np.float32)
REFUSED = [
    (BatchNorm(4, 1), np.zeros((2, 5), np.float32), r"running_mean should contain 5 elements not 4"),
    (BatchNorm(4, 1), np.zeros((2, 4, 1, 1), np.float32), r"expected 2D or 3D input \(got 4D input\)"),
    (BatchNorm(4, 2), ZERO, r"expected 4D input \(got 2D input\)"),
    (BatchNorm(4, 1), np.zeros((1, 4), np.float32), r"Expected more than 1 value per channel when training, got input size"),
    (BatchNorm(4, 1, eps=0), ZERO, r"batch_norm eps must be positive during training, but got 0"),
    (BatchNorm(4, 1), ZERO.astype(np.float64), r"input beside FP32 state is FP16, BF16, FP32, got FP64"),
    (BatchNorm(4, 1, datatype="FP64"), ZERO, r"input beside FP64 state is FP64, got FP32"),
    (BatchNorm(4, 1), ZERO.astype(np.int64), r"got INT64"),
    (
        InstanceNorm(4, 1),
        np.zeros((2, 5, 3), np.float32),
        r"expected input's size at dim=1 to match num_features \(4\), but got: 5",
    ),
    (InstanceNorm(4, 2), ZERO, r"expected 3D or 4D input \(got 2D input\)"),
    (InstanceNorm(4, 1), np.zeros((4, 1), np.float32), r"Expected more than 1 spatial element when training, got input size"),
    (InstanceNorm(4, 1), np.zeros((0, 4, 3), np.float32), r"input beside weight and bias has a sample or more, got shape"),
    (RunningNorm((4,)), np.zeros((4, 2)), r"input has shape \[\.\.\., 4\], got \[4, 2\]"),
    (RunningNorm((4,)), ZERO.astype(np.int32), r"got INT32"),
]


@pytest.mark.parametrize(("layer", "x", "text"), REFUSED)
def test_what_torch_refuses_is_refused_in_its_words(layer: Layer, x: np.ndarray, text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        layer.observed(x)


def test_without_tracking_there_is_nothing_to_update() -> None:
    with pytest.raises(InvalidRequestError, match="does not track running statistics"):
        BatchNorm(4, updates=False).observed(ZERO)


def test_eps_zero_is_for_evaluation_only() -> None:
    layer = BatchNorm(4, 1, eps=0)
    np.testing.assert_array_equal(layer.normalized(ZERO, layer.initial(), training=False), ZERO)
    with pytest.raises(InvalidRequestError, match="eps must be positive"):
        layer.normalized(ZERO, layer.initial(), training=True)
