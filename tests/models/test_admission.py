"""What stays float32 in a model of 16 bits, because a schema, onnxruntime or the numbers want it."""

import numpy as np
import pytest
from normserve_models.testing import Draft, draw_inputs
from normserve_models.testing_precision import assert_same_answers, constants, converted, op_types, run, types
from onnx import TensorProto, helper, numpy_helper


@pytest.mark.parametrize("opset", range(13, 22))
def test_resize(opset) -> None:
    draft = Draft(opset)
    x = draft.node("Relu", draft.input("batch", 3, 4, 4))
    y = draft.node("Resize", x, draft.constant(np.zeros(0), name="roi"), draft.constant([1, 1, 2, 1.5], name="scales"))
    source = draft.output(draft.node("Relu", y))
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "Relu", "Resize", "Relu", "Cast"]
    assert constants(result)["scales"].dtype == np.float32
    assert_same_answers(source, result)


def test_scales_that_are_computed_are_cast_back() -> None:
    draft = Draft()
    scales = draft.node("Relu", draft.input(4, name="scales"))
    source = draft.output(draft.node("Resize", draft.input("batch", 3, 4, 4, name="x"), "", scales, name="resize"))
    result = converted(source)
    assert types(result)[next(n for n in result.graph.node if n.op_type == "Resize").input[2]] == TensorProto.FLOAT
    assert_same_answers(source, result, {"x": np.ones((1, 3, 4, 4), np.float32), "scales": np.array([1, 1, 2, 2], np.float32)})


def test_a_lone_input_that_the_schema_does_not_admit_is_cast_back() -> None:
    draft = Draft(13)
    scale = draft.node("Relu", draft.input(name="scale"))
    y = draft.node("QuantizeLinear", draft.node("Cast", draft.input(3, name="x", dtype=np.int32), to=TensorProto.FLOAT), scale)
    source = draft.output(y, dtype=np.uint8)
    result = converted(source)
    assert_same_answers(source, result, {"scale": np.array(0.5, np.float32), "x": np.array([1, 2, 3], np.int32)})


def test_a_node_that_holds_tensors_of_its_inputs_type_stays() -> None:
    """A tree with one split, at 0.5: 1 where x is at most that, or else 2."""
    tensors = {
        "nodes_splits": np.array([0.5], np.float32),
        "leaf_weights": np.array([1, 2], np.float32),
        "nodes_modes": np.zeros(1, np.uint8),
    }
    lists = {"nodes_falseleafs": [1], "nodes_falsenodeids": [1], "nodes_featureids": [0], "nodes_trueleafs": [1]}
    lists |= {"nodes_truenodeids": [0], "leaf_targetids": [0, 0], "tree_roots": [0]}
    attributes = {name: numpy_helper.from_array(array) for name, array in tensors.items()} | lists
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("TreeEnsemble", ["r"], ["t"], domain="ai.onnx.ml", n_targets=1, **attributes),
        helper.make_node("Relu", ["t"], ["y"]),
    ]
    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 1]) for name in "xy"]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 5)]
    source = helper.make_model(helper.make_graph(nodes, "main", kinds[:1], kinds[1:]), opset_imports=imports, ir_version=10)
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "Relu", "Cast", "TreeEnsemble", "Cast", "Relu", "Cast"]
    assert_same_answers(source, result, {"x": np.array([[0.25], [0.75]], np.float32)})


def test_non_max_suppression_stays_as_its_schema_has_it() -> None:
    draft = Draft()
    boxes = draft.node("Relu", draft.input(1, 6, 4, name="boxes"))
    scores = draft.node("Sigmoid", draft.input(1, 1, 6, name="scores"))
    limits = (draft.constant(6, np.int64), draft.constant(0.5), draft.constant(0.25))
    chosen = draft.node("NonMaxSuppression", boxes, scores, *limits)
    source = draft.output(chosen, dtype=np.int64)
    result = converted(source)
    assert {name: array.dtype.name for name, array in constants(result).items()} == {
        "c3": "int64",
        "c4": "float32",
        "c5": "float32",
    }
    assert run(result, draw_inputs(result))[0].dtype == np.int64


def test_neighbours_that_stay_have_no_casts_between_them() -> None:
    """CumSum takes no float16 before opset 14."""
    draft = Draft(13)
    axis = draft.constant(1, np.int64)
    y = draft.node("Relu", draft.input("batch", 3))
    y = draft.node("CumSum", draft.node("CumSum", y, axis), axis)
    source = draft.output(draft.node("Relu", y))
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "Relu", "Cast", "CumSum", "CumSum", "Cast", "Relu", "Cast"]
    assert_same_answers(source, result)


def test_the_scales_of_quantization_stay_where_the_opset_wants_them() -> None:
    for opset, kind in ((13, "float32"), (20, "float16")):
        draft = Draft(opset)
        weight = draft.constant([[1, 2], [3, 4]], np.int8)
        x = draft.node("DequantizeLinear", weight, draft.constant(0.25, name="scale"))
        source = draft.output(draft.node("MatMul", draft.input("batch", 2), x))
        result = converted(source)
        assert constants(result)["scale"].dtype.name == kind
        assert_same_answers(source, result)


@pytest.mark.parametrize(
    ("variance", "opset", "kind"), [(1.0, 20, "float16"), (1e-9, 20, "float32"), (1e-9, 14, "float32"), (1e-9, 13, "float16")]
)
def test_a_batch_norm_keeps_a_variance_that_would_be_0_where_the_opset_gives_it_a_type(variance, opset, kind) -> None:
    draft = Draft(opset)
    parameters = [draft.constant([value, 1.0], name=name) for name, value in zip("gbmv", (1, 0, 0, variance), strict=True)]
    source = draft.output(draft.node("BatchNormalization", draft.input("batch", 2, 3), *parameters, epsilon=1e-12))
    result = converted(source)
    kinds = {name: array.dtype.name for name, array in constants(result).items()}
    assert kinds == {**dict.fromkeys("gb", "float16"), **dict.fromkeys("mv", kind)}
    if opset > 13:
        assert_same_answers(source, result)


def test_sizes_are_computed_as_they_were() -> None:
    """An exporter's half of a height: 4100 x 0.5 = 2050 is no trouble, but 4098 x 0.5 = 2049 is no number of float16."""
    draft = Draft()
    x = draft.input(1, 1, "height", 2, name="x")
    height = draft.node("Cast", draft.node("Shape", x, start=2, end=3), to=TensorProto.FLOAT)
    half = draft.node("Cast", draft.node("Mul", height, draft.constant(0.5)), to=TensorProto.INT64)
    shape = draft.node("Concat", draft.constant([1, 1], np.int64), half, draft.constant([2], np.int64), axis=0)
    source = draft.output(draft.node("Resize", x, "", "", shape))
    result = converted(source)
    assert run(result, {"x": np.ones((1, 1, 4098, 2), np.float32)})[0].shape == (1, 1, 2049, 2)


def test_positions_are_computed_as_they_were_and_cast_where_they_meet_data() -> None:
    draft = Draft()
    x = draft.input("batch", 2, name="x")
    rows = draft.node("Squeeze", draft.node("Cast", draft.node("Shape", x, start=0, end=1), to=TensorProto.FLOAT))
    positions = draft.node("Range", draft.constant(0.0), rows, draft.constant(1.0))
    scaled = draft.node("Unsqueeze", draft.node("Mul", positions, draft.constant(0.01)), draft.constant([1], np.int64))
    source = draft.output(draft.node("Add", x, scaled))
    result = converted(source)
    kinds = types(result)
    assert [kinds[node.output[0]] for node in result.graph.node if node.op_type == "Mul"] == [TensorProto.FLOAT]
    assert [kinds[node.output[0]] for node in result.graph.node if node.op_type == "Add"] == [TensorProto.FLOAT16]
    assert_same_answers(source, result, {"x": np.ones((4000, 2), np.float32)})


def test_attributes_that_hold_types_and_tensors() -> None:
    draft = Draft()
    x = draft.input("batch", 3, name="x")
    shape = draft.node("Shape", x)
    fill = numpy_helper.from_array(np.array([0.5], np.float32))
    y = draft.node("Add", x, draft.node("ConstantOfShape", shape, value=fill, name="fill"))
    y = draft.node("Add", y, draft.node("ConstantOfShape", shape))
    y = draft.node("Mul", y, draft.node("Constant", value_float=0.1, name="lone"))
    y = draft.node("Mul", y, draft.node("Constant", value_floats=[0.1, 0.2, 0.3], name="list"))
    source = draft.output(y)
    result = converted(source)
    assert op_types(result.graph).count("Cast") == 2
    assert [kind for kind in types(result).values() if kind == TensorProto.FLOAT] == [TensorProto.FLOAT] * 2
    assert_same_answers(source, result, {"x": np.ones((3, 3), np.float32)})


@pytest.mark.parametrize("attributes", [{"dtype": TensorProto.FLOAT}, {}])  # by default the type of what it is like
def test_what_onnxruntime_cannot_make_of_16_bits_is_cast(attributes) -> None:
    draft = Draft()
    y = draft.node("Relu", draft.input(3, 3, name="x"))
    source = draft.output(draft.node("Mul", y, draft.node("EyeLike", y, **attributes)))
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "Relu", "EyeLike", "Cast", "Mul", "Cast"]
    assert_same_answers(source, result)
