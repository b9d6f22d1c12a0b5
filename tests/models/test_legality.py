"""Every reason for which a batch norm stays, and that the graph is then left as it was."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import testing
from normserve_models.fold import fold
from normserve_models.legality import Reason
from normserve_models.testing import Draft
from onnx import helper


def stays(model: onnx.ModelProto, reason: Reason, says: str = "") -> None:
    """The one batch norm left stays for `reason`, whose detail names `says`."""
    result, norms = testing.folded(model)
    [left] = [norm for norm in norms if not norm.folded]
    assert left.reason == reason
    assert says in (left.detail or "")
    assert testing.operators_of(result).count("BatchNormalization") == 1


def conv(draft: Draft, channels: int = 4, **attributes: object) -> str:
    return draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(channels, 3, 3, 3), name="conv", **attributes)


def test_every_reason_has_a_code_and_a_meaning() -> None:
    assert Reason("overflow") is Reason.OVERFLOW
    assert all(reason.explanation and str(reason) == reason.value for reason in Reason)


def test_every_code_stands_in_the_docs() -> None:
    docs = Path(__file__).parents[2] / "docs" / "folding.md"
    codes = re.findall(r"^\| `(\w+)` \|", docs.read_text(), re.MULTILINE)
    assert {reason.value for reason in Reason} <= set(codes)


def test_training_mode() -> None:
    """onnxscript folds it, off by 3."""
    draft = Draft()
    stays(draft.output(draft.norm(conv(draft), 4, training_mode=1, outputs=3)), Reason.TRAINING_MODE, "BatchNormalization")


def test_training_mode_with_one_output() -> None:
    draft = Draft()
    proto = draft.output(draft.norm(conv(draft), 4))
    proto.graph.node[-1].attribute.append(helper.make_attribute("training_mode", 1))
    [norm] = fold(ir.from_proto(proto))
    assert (norm.folded, norm.reason) == (False, "training_mode")


def test_several_outputs_are_training_mode_before_opset_14() -> None:
    draft = Draft(9)
    model = ir.from_proto(draft.output(draft.norm(conv(draft), 4, outputs=5)))
    before = ir.to_proto(model)
    [norm] = fold(model)
    assert (norm.folded, norm.reason) == (False, "training_mode")
    assert ir.to_proto(model).graph.node == before.graph.node


def test_batch_statistics() -> None:
    """torch 2.13 exports track_running_stats=False as ReduceMean nodes that feed the mean and the variance."""
    draft = Draft()
    y = conv(draft)
    axes = draft.constant([0, 2, 3], dtype=np.int64)
    mean = draft.node("ReduceMean", y, axes, keepdims=0)
    square = draft.node("ReduceMean", draft.node("Mul", y, y), axes, keepdims=0)
    variance = draft.node("Sub", square, draft.node("Mul", mean, mean))
    norm = draft.node("BatchNormalization", y, draft.drawn(4), draft.drawn(4), mean, variance)
    stays(draft.output(norm), Reason.BATCH_STATISTICS, mean)


@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_a_parameter_that_a_caller_may_override(index) -> None:
    """onnxsim, onnxslim and OpenVINO fold it all the same."""
    draft = Draft()
    model = draft.output(draft.norm(conv(draft), 4))
    [node] = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    model.graph.input.append(helper.make_tensor_value_info(node.input[index], onnx.TensorProto.FLOAT, [4]))
    stays(model, Reason.OVERRIDABLE, node.input[index])


def test_a_weight_that_a_caller_may_override() -> None:
    draft = Draft()
    weight = draft.drawn(4, 3, 3, 3, name="weight")
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), weight)
    model = draft.output(draft.norm(y, 4))
    model.graph.input.append(helper.make_tensor_value_info(weight, onnx.TensorProto.FLOAT, [4, 3, 3, 3]))
    stays(model, Reason.OVERRIDABLE, "weight")


def test_files_older_than_ir_4_have_to_list_their_constants_as_inputs() -> None:
    draft = Draft(9)
    model = draft.output(draft.norm(conv(draft), 4))
    model.ir_version = 3
    listed = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in model.graph.initializer]
    model.graph.input.extend(listed)
    stays(model, Reason.OVERRIDABLE)  # so far: graph.load frees them, see test_graph.py


def test_the_value_between_is_an_output() -> None:
    draft = Draft()
    y = conv(draft)
    stays(draft.output(draft.norm(y, 4), y), Reason.GRAPH_OUTPUT, y)


def test_another_consumer() -> None:
    draft = Draft()
    y = conv(draft)
    stays(draft.output(draft.norm(y, 4), draft.node("Relu", y, name="other")), Reason.SEVERAL_CONSUMERS, "Relu 'other'")


def test_a_consumer_inside_a_body_counts() -> None:
    draft = Draft()
    y = conv(draft)
    norm = draft.norm(y, 4)
    inner = helper.make_graph(
        [helper.make_node("Identity", [y], ["inner"])], "inner", [], [helper.make_tensor_value_info("inner", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", [y], ["inner2"])], "other", [], [helper.make_tensor_value_info("inner2", 1, None)]
    )
    chosen = draft.node("If", draft.constant(True, dtype=np.bool_), then_branch=inner, else_branch=other)
    stays(draft.output(norm, chosen), Reason.SEVERAL_CONSUMERS)


@pytest.mark.parametrize("operator", ["Relu", "Sigmoid", "Softmax"])
def test_an_operator_that_is_no_affine_map(operator) -> None:
    draft = Draft()
    stays(draft.output(draft.norm(draft.node(operator, conv(draft), name="it"), 4)), Reason.BLOCKED, f"{operator} 'it'")


def test_an_operator_that_does_not_take_its_other_operand() -> None:
    draft = Draft()
    y = draft.node("Mul", conv(draft), draft.drawn(3, 3), name="it")
    stays(draft.output(draft.norm(y, 4)), Reason.BLOCKED, "Mul 'it'")
    draft = Draft()
    y = draft.node("Mul", conv(draft), draft.input("batch", 4, 3, 3), name="it")
    stays(draft.output(draft.norm(y, 4)), Reason.BLOCKED, "Mul 'it'")


def test_an_input_of_the_graph() -> None:
    draft = Draft()
    stays(draft.output(draft.norm(draft.input("batch", 4, 5, name="image"), 4)), Reason.BLOCKED, "image")


@pytest.mark.parametrize("position", [1, 2])
def test_weights_that_are_computed_at_run_time(position) -> None:
    draft = Draft()
    given = [draft.input(4, 3, 3, 3), draft.input(4)]
    operands = [draft.drawn(4, 3, 3, 3), draft.drawn(4)]
    operands[position - 1] = given[position - 1]
    del draft.inputs[2 - position]
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), *operands)
    stays(draft.output(draft.norm(y, 4)), Reason.BLOCKED, given[position - 1])


def test_a_rank_that_is_not_known_is_inferred() -> None:
    draft = Draft()
    y = draft.node("Add", draft.node("MatMul", draft.input("batch", 5), draft.drawn(5, 4)), draft.drawn(4))
    model = draft.output(draft.norm(y, 4))
    del model.graph.value_info[:]
    _, [norm] = testing.folded(model)
    assert norm.folded


def test_a_linear_layer_over_three_axes_has_its_channels_last() -> None:
    """[N, 2, 2] with both axes of one size: fx.fuse scales the wrong one, silently."""
    draft = Draft()
    y = draft.node("MatMul", draft.input("batch", 2, 2), draft.drawn(2, 2), name="linear")
    stays(draft.output(draft.norm(y, 2)), Reason.AXIS, "MatMul 'linear'")


def test_a_product_whose_constant_is_on_the_left() -> None:
    draft = Draft()
    y = draft.node("MatMul", draft.drawn(4, 4), draft.input(4, 4))
    stays(draft.output(draft.norm(y, 4)), Reason.BLOCKED)


def test_an_addition_that_widens_the_channels() -> None:
    draft = Draft()
    y = draft.node("Add", draft.node("MatMul", draft.input("batch", 5), draft.drawn(5, 1)), draft.drawn(4))
    stays(draft.output(draft.norm(y, 4)), Reason.AXIS, "1 channels")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, -1e-12])
def test_bad_variances(value) -> None:
    draft = Draft()
    parameters = [draft.constant(np.ones(4)) for _ in range(3)] + [draft.constant([1, 1, value, 1])]
    stays(draft.output(draft.node("BatchNormalization", conv(draft), *parameters)), Reason.BAD_STATISTICS, "channel 2")


@pytest.mark.parametrize("index", [0, 1, 2])
def test_parameters_that_are_not_finite(index) -> None:
    draft = Draft()
    values = [np.ones(4) for _ in range(4)]
    values[index][3] = np.nan
    parameters = [draft.constant(value) for value in values]
    stays(draft.output(draft.node("BatchNormalization", conv(draft), *parameters)), Reason.BAD_STATISTICS, "nan")


def test_a_variance_of_zero_without_epsilon() -> None:
    draft = Draft()
    parameters = [draft.constant(values) for values in ([1.0], [0.0], [0.5], [0.0])]
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(1, 3, 3, 3))
    model = draft.output(draft.node("BatchNormalization", y, *parameters, epsilon=0.0))
    stays(model, Reason.BAD_STATISTICS, "variance + epsilon")


def test_overflow() -> None:
    """Around 300 with a variance of 1e-6, in float16: the shift would be -inf, and the unfolded model is finite."""
    draft = Draft(dtype=np.float16)
    weight, bias = draft.constant(np.ones((1, 3, 1, 1))), draft.constant([300.0])
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), weight, bias)
    parameters = [draft.constant([value], dtype=np.float32) for value in (1.0, 0.0, 300.0, 1e-6)]
    kept = draft.node("BatchNormalization", y, *parameters, epsilon=0.0)
    testing.folded(draft.output(kept))  # around its mean there is no overflow
    draft = Draft(dtype=np.float16)
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.constant(np.ones((1, 3, 1, 1))))
    parameters = [draft.constant([value], dtype=np.float32) for value in (1.0, 0.0, 300.0, 1e-6)]
    stays(draft.output(draft.node("BatchNormalization", y, *parameters, epsilon=0.0)), Reason.OVERFLOW, "FLOAT16")


def test_a_file_older_than_opset_9() -> None:
    draft = Draft(8)
    stays(draft.output(draft.norm(conv(draft), 4)), Reason.OPSET, "opset 8")


def test_a_batch_norm_behind_one_that_stays() -> None:
    draft = Draft()
    y = draft.norm(conv(draft), 4, training_mode=1, outputs=3, name="first")
    _, [first, second] = testing.folded(draft.output(draft.norm(y, 4)))
    assert first.reason == "training_mode"
    assert second.reason == "blocked"
    assert "first" in (second.detail or "")
