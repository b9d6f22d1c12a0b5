"""Weights that a DequantizeLinear node makes."""

import numpy as np
import onnx
import pytest
from normserve_models import testing
from normserve_models.legality import Reason
from normserve_models.testing import Draft
from onnx import numpy_helper


def quantized(draft: Draft, shape, *, axis=None, dtype=np.int8, zero_point=True, low=-127, high=127) -> str:
    generator = np.random.default_rng(7)
    integers = draft.constant(generator.integers(low, high, shape, endpoint=True), dtype=dtype)
    size = () if axis is None else (shape[axis],)
    scale = draft.constant(generator.uniform(0.01, 0.1, size))
    points = [draft.constant(generator.integers(0, 3, size), dtype=dtype)] if zero_point else []
    return draft.node("DequantizeLinear", integers, scale, *points, **({} if axis is None else {"axis": axis}))


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv_takes_it_into_the_scale_of_its_weight(axis, zero_point, groups) -> None:
    draft = Draft()
    weight = quantized(draft, (4, 4 // groups, 3, 3), axis=axis, zero_point=zero_point, low=-120, high=120)
    y = draft.node("Conv", draft.input("batch", 4, 5, 5), weight, draft.drawn(4), group=groups)
    result = testing.all_fold(draft.output(draft.norm(y, 4)), "DequantizeLinear", "Conv")
    assert sum(array.dtype == np.int8 and array.ndim == 4 for array in constants(result).values()) == 1
    scales = [array for array in constants(result).values() if array.shape == (4,) and array.dtype == np.float32]
    assert any((array > 0).all() for array in scales), "a runtime takes scales to be positive"


def test_unsigned_integers_are_mirrored_at_their_zero_point() -> None:
    draft = Draft()
    weight = quantized(draft, (4, 3, 3, 3), axis=0, dtype=np.uint8, low=1, high=2)
    testing.all_fold(draft.output(draft.norm(draft.node("Conv", draft.input("batch", 3, 5, 5), weight), 4)))


def test_linear_layers() -> None:
    draft = Draft()
    y = draft.norm(draft.node("Gemm", draft.input("batch", 3), quantized(draft, (3, 4), axis=1)), 4)
    y = draft.norm(draft.node("MatMul", draft.node("Relu", y), quantized(draft, (4, 5))), 5)
    # onnxruntime makes MatMulNBits of these, folded or not, which is off by 2e-3 itself: only float64 judges here.
    result, norms = testing.folded(draft.output(y))
    assert [norm.folded for norm in norms] == [True, True]
    assert testing.operators_of(result) == ["DequantizeLinear", "Gemm", "Relu", "DequantizeLinear", "Gemm"]


def test_a_shared_weight_gets_a_node_of_its_own() -> None:
    draft = Draft()
    weight = quantized(draft, (4, 4, 1, 1), axis=0)
    y = draft.norm(draft.node("Conv", draft.input("batch", 4, 5, 5), weight), 4)
    testing.all_fold(draft.output(y, draft.node("Conv", y, weight)))


def test_two_batch_norms_in_turn() -> None:
    draft = Draft()
    y = draft.norm(draft.norm(draft.node("Conv", draft.input("batch", 4, 5, 5), quantized(draft, (4, 4, 1, 1), axis=0)), 4), 4)
    testing.all_fold(draft.output(y), "DequantizeLinear", "Conv")


def test_a_bias_of_integers_becomes_one_of_numbers() -> None:
    draft = Draft()
    bias = draft.node("DequantizeLinear", draft.constant([1, -2, 3, 4], dtype=np.int32), draft.constant(0.01))
    y = draft.node("Conv", draft.input("batch", 4, 5, 5), quantized(draft, (4, 4, 1, 1), axis=0), bias)
    testing.all_fold(draft.output(draft.norm(y, 4)), "DequantizeLinear", "Conv")


def test_a_channel_of_scale_0() -> None:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), quantized(draft, (4, 3, 1, 1), axis=0))
    gamma = draft.constant([0.0, -1.0, 1.0, 2.0])
    others = [draft.constant(np.arange(4.0) + 0.5) for _ in range(3)]
    result = testing.all_fold(draft.output(draft.node("BatchNormalization", y, gamma, *others)), "DequantizeLinear", "Conv")
    assert all((array > 0).all() for name, array in constants(result).items() if "scale" in name)


def test_an_integer_without_a_negative_is_complemented_with_its_zero_point() -> None:
    draft = Draft()
    weight = quantized(draft, (4, 3, 3, 3), axis=0, low=-128, high=-120, zero_point=False)
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), weight)
    gamma = draft.constant([-1.0, -1.0, 1.0, 1.0])
    others = [draft.constant(np.arange(4.0) + 0.5) for _ in range(3)]
    result = testing.all_fold(draft.output(draft.node("BatchNormalization", y, gamma, *others)), "DequantizeLinear", "Conv")
    [points] = [array for array in constants(result).values() if array.shape == (4,) and array.dtype == np.int8]
    assert points.tolist() == [-1, -1, 0, 0]


@pytest.mark.parametrize(
    ("opset", "axis", "reason"), [(12, None, Reason.OPSET), (20, 1, Reason.AXIS)], ids=["no scale per channel", "another axis"]
)
def test_what_the_format_cannot_say(opset, axis, reason) -> None:
    draft = Draft(opset)
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), quantized(draft, (4, 3, 3, 3), axis=axis))
    _, [norm] = testing.folded(draft.output(draft.node("Relu", draft.norm(y, 4))))
    assert norm.reason == reason


def test_forward_needs_a_scale_along_the_inputs() -> None:
    """Depthwise rows have one input each, so their scale can take it; a full weight has one scale for a row of inputs."""
    for groups, folds in ((4, True), (1, False)):
        draft = Draft()
        x = draft.norm(draft.node("Relu", draft.input("batch", 4, 5, 5)), 4)
        y = draft.node("Conv", x, quantized(draft, (4, 4 // groups, 3, 3), axis=0), group=groups)
        _, [norm] = testing.folded(draft.output(y))
        assert norm.folded == folds
        assert folds or norm.reason == Reason.AXIS
