"""Models that a reviewer has found to break a fold: each of them folds right, or stays."""

import numpy as np
import onnx
import pytest
from normserve_models import testing
from normserve_models.legality import Reason
from normserve_models.measure import Allowance
from normserve_models.testing import Draft
from onnx import TensorProto
from onnx_ir import DataType


def stays(model: onnx.ModelProto, reason: Reason) -> None:
    _, [norm] = testing.folded(model)
    assert (norm.folded, norm.reason) == (False, reason)


def conv(draft: Draft, *spatial: int) -> str:
    return draft.node("Conv", draft.input("batch", 3, *spatial), draft.drawn(4, 3, *[3] * len(spatial)))


@pytest.mark.parametrize("opset", [9, 11, 12, 13])
def test_constants_are_evaluated_at_the_opset_of_the_file(opset) -> None:
    draft = Draft(opset)
    axes = draft.constant([1, 2], dtype=np.int64)
    bias = draft.drawn(4)
    wide = draft.node("Unsqueeze", bias, axes) if opset >= 13 else draft.node("Unsqueeze", bias, axes=[1, 2])
    testing.all_fold(draft.output(draft.norm(draft.node("Add", conv(draft, 8, 8), wide), 4)), "Conv")


def test_a_clip_of_attributes_on_a_weight() -> None:
    draft = Draft(10)
    weight = draft.node("Clip", draft.drawn(4, 3, 1, 1), min=-0.5, max=0.5)
    testing.all_fold(draft.output(draft.norm(draft.node("Conv", draft.input("batch", 3, 4, 4), weight), 4)), "Conv")


def test_a_weight_that_the_reference_cannot_compute_is_computed_at_run_time() -> None:
    draft = Draft()
    weight = draft.node("Pad", draft.drawn(4, 4), draft.constant([-1, 0, 0, 0], dtype=np.int64))
    y = draft.norm(draft.node("Relu", draft.node("MatMul", draft.input("batch", 3), draft.drawn(3, 3))), 3)
    draft.node("MatMul", y, weight)
    from normserve_models.fold import fold
    from onnx_ir import from_proto

    [norm] = fold(from_proto(draft.output(f"{draft.nodes[-1].output[0]}")))
    assert norm.reason == Reason.BLOCKED


@pytest.mark.parametrize("form", [{"output_shape": [18, 16]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "VALID"}], ids=str)
def test_a_transposed_convolution_whose_padding_is_computed(form) -> None:
    """A map behind it would have to be evaluated, which the reference cannot do; nothing breaks."""
    from normserve_models.fold import fold
    from onnx_ir import from_proto

    draft = Draft()
    x = draft.norm(draft.node("Relu", draft.input("batch", 4, 9, 8)), 4)
    y = draft.node("ConvTranspose", x, draft.drawn(4, 2, 3, 3), group=2, strides=[2, 2], **form)
    fold(from_proto(draft.output(y)))


@pytest.mark.parametrize("constant", [(4, 1, 1), (1,)])
def test_a_sum_of_two_one_of_them_constant(constant) -> None:
    draft = Draft()
    y = draft.node("Sum", conv(draft, 8, 8), draft.drawn(*constant))
    testing.all_fold(draft.output(draft.norm(y, 4)), "Conv")


def test_a_gray_image_that_constants_widen_to_three_channels() -> None:
    draft = Draft()
    x = draft.input("batch", 1, 8, 8)
    x = draft.node("Div", draft.node("Sub", x, draft.drawn(3, 1, 1)), draft.drawn(3, 1, 1))
    model = draft.output(draft.node("Conv", x, draft.drawn(4, 3, 3, 3)))
    result, norms = testing.folded(model)
    assert not norms
    assert result.graph.node == model.graph.node


@pytest.mark.parametrize("pool", ["AveragePool", "MaxPool"])
def test_a_pool_that_slides_over_the_channels(pool) -> None:
    draft = Draft()
    y = draft.node("MatMul", draft.input("batch", 5, 6), draft.drawn(6, 7))
    y = draft.node(pool, y, kernel_shape=[3], pads=[1, 1])
    gamma, beta, mean, variance = (draft.constant(np.linspace(0.1, 2.0, 7) + step) for step in (0.0, 0.3, -0.4, 0.1))
    turned = draft.node("Transpose", y, perm=[0, 2, 1])
    y = draft.node("BatchNormalization", turned, gamma, beta, mean, variance)
    stays(draft.output(draft.node("Relu", y)), Reason.AXIS)


def test_forward_into_a_pool_that_slides_over_the_channels() -> None:
    draft = Draft()
    x = draft.norm(draft.node("Relu", draft.input("batch", 7, 5)), 7)
    x = draft.node("AveragePool", draft.node("Transpose", x, perm=[0, 2, 1]), kernel_shape=[3], pads=[1, 1])
    stays(draft.output(draft.node("MatMul", x, draft.drawn(7, 2))), Reason.AXIS)


def test_a_quantized_weight_of_another_type_than_its_scale() -> None:
    draft = Draft(23)
    x = draft.input("batch", 3, 5, dtype=np.float16)
    integers = draft.constant(np.arange(12).reshape(4, 3, 1), dtype=np.int8)
    scale = draft.constant(0.5, dtype=np.float32)
    weight = draft.node("DequantizeLinear", integers, scale, output_dtype=TensorProto.FLOAT16)
    y = draft.node("Relu", draft.norm(draft.node("Conv", x, weight), 4, dtype=np.float16))
    stays(draft.output(y, dtype=np.float16), Reason.DTYPE)


def test_an_interpolation_that_mixes_channels_and_leaves_as_many() -> None:
    draft = Draft()
    y = draft.node("Resize", conv(draft, 8, 8), "", draft.constant([1.0, 1.24, 2.0, 2.0]), mode="nearest")
    from normserve_models.fold import fold
    from onnx_ir import from_proto

    [norm] = fold(from_proto(draft.output(draft.node("Relu", draft.norm(y, 4)))))
    assert norm.reason == Reason.AXIS


def test_an_addition_that_a_caller_may_override_stays_and_another_comes_before_it() -> None:
    draft = Draft()
    x = draft.norm(draft.node("Relu", draft.input("batch", 4, 5)), 4)
    bias = draft.drawn(3, name="bias")
    draft.inputs.append(onnx.helper.make_tensor_value_info(bias, TensorProto.FLOAT, [3]))
    tokens = draft.node("MatMul", draft.node("Transpose", x, perm=[0, 2, 1]), draft.drawn(4, 3))
    result, [norm] = testing.folded(draft.output(draft.node("Add", tokens, bias)))
    assert norm.folded
    assert testing.operators_of(result) == ["Relu", "Transpose", "MatMul", "Add", "Add"]


@pytest.mark.parametrize("behind", [False, True])
def test_what_is_never_run_does_not_stand_in_the_way(behind) -> None:
    draft = Draft()
    y = conv(draft, 8, 8)
    draft.node("Relu", y, name="dead")
    z = draft.norm(y, 4)
    if behind:
        draft.node("Relu", draft.node("Neg", z, name="also dead"), name="dead too")
    testing.all_fold(draft.output(z), "Conv")


def test_a_source_that_is_off_by_more_than_rounding_allows_nothing() -> None:
    """Where onnx's reference means another function than onnxruntime, twice the error of the source says nothing."""
    allowance = Allowance(DataType.FLOAT)
    assert [allowance.bound(error) for error in (1e-7, 1e-3, 0.4, 1.5, float("inf"))] == [1e-6, 2e-3, 0.8, 1e-6, 1e-6]
