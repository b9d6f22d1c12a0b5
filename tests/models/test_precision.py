"""Conversion to 16 bits: one rounding, the interface as it was, and float32 where the schemas want it."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import graph, precision, verify
from normserve_models.constants import FLOATS
from normserve_models.precision import PrecisionError
from normserve_models.testing import Draft, draw_inputs
from onnx import TensorProto, helper, numpy_helper

HALF, BRAIN = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
BOTH = pytest.mark.parametrize("dtype", [HALF, BRAIN])


def convert(proto: onnx.ModelProto, dtype=HALF, exact=None) -> onnx.ModelProto:
    """Convert a copy, and hold it to what every conversion has to keep; `exact` holds float64 arrays by name."""
    model = ir.from_proto(proto)
    precision.convert(model, dtype, {model.graph.initializers[name]: array for name, array in (exact or {}).items()})
    result = ir.to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    for one, other in ((proto.graph.input, result.graph.input), (proto.graph.output, result.graph.output)):
        assert [(v.name, v.type) for v in one] == [(v.name, v.type) for v in other]
    again = ir.from_proto(result)
    assert precision.convert(again, dtype, {}).constants == 0
    assert ir.to_proto(again).SerializeToString() == result.SerializeToString(), "converting twice changes the file"
    return result


def run(proto: onnx.ModelProto, batch=None) -> list[np.ndarray]:
    options = verify.onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = verify.onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, draw_inputs(proto) if batch is None else batch)


def constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def operators(body: onnx.GraphProto) -> list[str]:
    return [node.op_type for node in body.node]


def types(proto: onnx.ModelProto) -> dict[str, int]:
    """The types of all values, as onnx infers them anew."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input, *inferred.output)}


def same_answers(before: onnx.ModelProto, after: onnx.ModelProto, batch=None, bound=8e-3) -> None:
    batch = draw_inputs(before) if batch is None else batch
    for got, wanted in zip(run(after, batch), run(before, batch), strict=True):
        assert got.dtype == wanted.dtype
        assert verify.relative_error(got, wanted.astype(np.float64) if wanted.dtype.kind == "f" else wanted) <= bound


def convolution(opset=20, *, as_nodes=False) -> onnx.ModelProto:
    draft = Draft(opset, as_nodes=as_nodes)
    y = draft.node("Conv", draft.input("batch", 3, 6, 6, name="image"), draft.drawn(8, 3, 3, 3), draft.drawn(8))
    y = draft.node("MaxPool", draft.node("Relu", y), kernel_shape=[2, 2])
    return draft.output(draft.node("Add", y, draft.constant(0.1), name="last"))


@pytest.mark.parametrize("opset", [9, 11, *range(13, 23)])
@pytest.mark.parametrize("as_nodes", [False, True])
def test_everything_is_low_but_the_interface(opset, as_nodes) -> None:
    source = convolution(opset, as_nodes=as_nodes)
    result = convert(source)
    assert operators(result.graph)[-1] == "Cast"
    assert [kind for kind in types(result).values() if kind == TensorProto.FLOAT] == [TensorProto.FLOAT] * 2
    assert {array.dtype for array in constants(result).values()} <= {np.dtype(np.float16)}
    same_answers(source, result)


def test_double_is_converted_too() -> None:
    draft = Draft(dtype=np.float64)
    source = draft.output(draft.node("MatMul", draft.input("batch", 4), draft.drawn(4, 3)))
    result = convert(source)
    assert operators(result.graph) == ["Cast", "MatMul", "Cast"]
    assert constants(result)["c2"].dtype == np.float16
    same_answers(source, result)


@BOTH
def test_each_weight_is_the_nearest_to_the_exact_one(dtype) -> None:
    draft = Draft(22)
    source = draft.output(draft.node("MatMul", draft.input("batch", 400), draft.drawn(400, 200, name="weight")))
    exact = np.random.default_rng(3).standard_normal((400, 200))
    # The middle between two neighbours and a little: through float32 the little is lost, and the tie goes to even.
    digits = {HALF: 11, BRAIN: 8}[dtype]
    exact[0] = 1 + 2.0**-digits + 2.0**-40
    got = constants(convert(source, dtype, {"weight": exact}))["weight"]
    neighbours = [np.nextafter(got, got.dtype.type(end)) for end in (-np.inf, np.inf)]
    for neighbour in neighbours:
        assert (np.abs(got.astype(np.float64) - exact) <= np.abs(neighbour.astype(np.float64) - exact)).all()
    twice = exact.astype(np.float32).astype(got.dtype)
    assert (got[0] != twice[0]).all()


def test_the_exact_values_of_what_stays_are_rounded_to_its_own_type() -> None:
    draft = Draft()
    scales = draft.constant([1, 1, 2, 2], name="scales")
    source = draft.output(draft.node("Resize", draft.input("batch", 3, 4, 4), "", scales))
    exact = np.array([1, 1, 2 + 2.0**-22 + 2.0**-50, 2])
    got = constants(convert(source, HALF, {"scales": exact}))["scales"]
    np.testing.assert_array_equal(got, exact.astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "value", "limit"), [(HALF, 70000, "65504"), (HALF, -1e9, "65504"), (BRAIN, 3.4e38, "3.38953e+38")]
)
def test_a_weight_that_overflows_is_refused(dtype, value, limit) -> None:
    draft = Draft(22)
    weight = draft.constant([[1.0, value], [2.0, 3.0]], name="fc.weight")
    model = ir.from_proto(draft.output(draft.node("MatMul", draft.input("batch", 2), weight)))
    with pytest.raises(PrecisionError) as caught:
        precision.convert(model, dtype, {})
    assert str(caught.value) == f"the constant 'fc.weight' holds {value:.6g}, and {dtype.name.lower()} goes to {limit}"
    assert model.graph.initializers["fc.weight"].dtype == ir.DataType.FLOAT
    assert [node.op_type for node in model.graph] == ["MatMul"]


def test_an_exact_weight_that_overflows_is_refused() -> None:
    draft = Draft()
    model = ir.from_proto(draft.output(draft.node("MatMul", draft.input("batch", 2), draft.drawn(2, 1, name="weight"))))
    with pytest.raises(PrecisionError, match="'weight' holds 1e\\+300"):
        precision.convert(model, HALF, {model.graph.initializers["weight"]: np.array([[1e300], [1.0]])})


def test_infinities_stay_and_the_largest_number_of_a_type_becomes_that_of_the_other() -> None:
    draft = Draft()
    x = draft.input("batch", 3)
    y = draft.node("Clip", x, draft.constant(0.0), draft.constant(np.finfo(np.float32).max, name="bound"))
    y = draft.node("Add", y, draft.constant([0, -np.inf, 1], name="mask"))
    result = convert(draft.output(y))
    assert constants(result)["bound"] == np.finfo(np.float16).max
    np.testing.assert_array_equal(constants(result)["mask"], np.array([0, -np.inf, 1], np.float16))


def test_what_underflows_is_counted() -> None:
    draft = Draft()
    weight = draft.constant([[0, 1e-9], [1e-6, 1]], name="weight")
    model = ir.from_proto(draft.output(draft.node("MatMul", draft.input("batch", 2), weight)))
    done = precision.convert(model, HALF, {})
    assert (done.constants, done.zeroed, done.subnormal) == (1, 1, 1)


def test_bytes_are_cast_to_16_bits_at_once() -> None:
    draft = Draft()
    x = draft.node("Cast", draft.input("batch", 3, dtype=np.uint8), to=TensorProto.FLOAT)
    source = draft.output(draft.node("MatMul", x, draft.drawn(3, 2)))
    result = convert(source)
    assert operators(result.graph) == ["Cast", "MatMul", "Cast"]
    assert result.graph.node[0].attribute[0].i == TensorProto.FLOAT16
    same_answers(source, result, {"x1": np.array([[0, 128, 255]], np.uint8)})


def test_an_output_that_is_used_inside_too() -> None:
    draft = Draft()
    y = draft.node("Relu", draft.input("batch", 3, name="x"), name="both")
    source = draft.output("both.y", draft.node("MatMul", y, draft.drawn(3, 2)))
    result = convert(source)
    assert operators(result.graph) == ["Cast", "Relu", "Cast", "MatMul", "Cast"]
    same_answers(source, result)


def test_an_input_and_a_constant_that_are_outputs() -> None:
    draft = Draft()
    x = draft.input("batch", 3, name="x")
    weight = draft.drawn(3, 3, name="weight")
    source = draft.output(draft.node("MatMul", x, weight), weight)
    result = convert(source)
    assert {name: array.dtype.name for name, array in constants(result).items()} == {
        "weight": "float32",
        "weight.float16": "float16",
    }
    same_answers(source, result)


def test_a_constant_that_a_caller_may_override_is_an_input() -> None:
    draft = Draft()
    weight = draft.drawn(3, 2, name="weight")
    draft.inputs.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, [3, 2]))
    source = draft.output(draft.node("MatMul", draft.input("batch", 3, name="x"), weight))
    result = convert(source)
    assert operators(result.graph) == ["Cast", "Cast", "MatMul", "Cast"]
    batch = {"x": np.ones((1, 3), np.float32), "weight": np.full((3, 2), 2, np.float32)}
    np.testing.assert_array_equal(run(result, batch)[0], [[6, 6]])


@pytest.mark.parametrize("opset", range(13, 22))
def test_resize(opset) -> None:
    draft = Draft(opset)
    x = draft.node("Relu", draft.input("batch", 3, 4, 4))
    y = draft.node("Resize", x, draft.constant(np.zeros(0), name="roi"), draft.constant([1, 1, 2, 1.5], name="scales"))
    source = draft.output(draft.node("Relu", y))
    result = convert(source)
    assert operators(result.graph) == ["Cast", "Relu", "Resize", "Relu", "Cast"]
    assert constants(result)["scales"].dtype == np.float32
    same_answers(source, result)


def test_scales_that_are_computed_are_cast_back() -> None:
    draft = Draft()
    scales = draft.node("Relu", draft.input(4, name="scales"))
    source = draft.output(draft.node("Resize", draft.input("batch", 3, 4, 4, name="x"), "", scales, name="resize"))
    result = convert(source)
    assert types(result)[next(n for n in result.graph.node if n.op_type == "Resize").input[2]] == TensorProto.FLOAT
    same_answers(source, result, {"x": np.ones((1, 3, 4, 4), np.float32), "scales": np.array([1, 1, 2, 2], np.float32)})


def test_non_max_suppression_stays_as_its_schema_has_it() -> None:
    draft = Draft()
    boxes = draft.node("Relu", draft.input(1, 6, 4, name="boxes"))
    scores = draft.node("Sigmoid", draft.input(1, 1, 6, name="scores"))
    limits = (draft.constant(6, np.int64), draft.constant(0.5), draft.constant(0.25))
    chosen = draft.node("NonMaxSuppression", boxes, scores, *limits)
    source = draft.output(chosen, dtype=np.int64)
    result = convert(source)
    assert {name: array.dtype.name for name, array in constants(result).items()} == {
        "c3": "int64",
        "c4": "float32",
        "c5": "float32",
    }
    assert run(result)[0].dtype == np.int64


def test_neighbours_that_stay_have_no_casts_between_them() -> None:
    """CumSum takes no float16 before opset 14."""
    draft = Draft(13)
    axis = draft.constant(1, np.int64)
    y = draft.node("Relu", draft.input("batch", 3))
    y = draft.node("CumSum", draft.node("CumSum", y, axis), axis)
    source = draft.output(draft.node("Relu", y))
    result = convert(source)
    assert operators(result.graph) == ["Cast", "Relu", "Cast", "CumSum", "CumSum", "Cast", "Relu", "Cast"]
    same_answers(source, result)


def test_the_scales_of_quantization_stay_where_the_opset_wants_them() -> None:
    for opset, kind in ((13, "float32"), (20, "float16")):
        draft = Draft(opset)
        weight = draft.constant([[1, 2], [3, 4]], np.int8)
        x = draft.node("DequantizeLinear", weight, draft.constant(0.25, name="scale"))
        source = draft.output(draft.node("MatMul", draft.input("batch", 2), x))
        result = convert(source)
        assert constants(result)["scale"].dtype.name == kind
        same_answers(source, result)


@pytest.mark.parametrize(
    ("variance", "opset", "kind"), [(1.0, 20, "float16"), (1e-9, 20, "float32"), (1e-9, 14, "float32"), (1e-9, 13, "float16")]
)
def test_a_batch_norm_keeps_a_variance_that_would_be_0_where_the_opset_gives_it_a_type(variance, opset, kind) -> None:
    draft = Draft(opset)
    parameters = [draft.constant([value, 1.0], name=name) for name, value in zip("gbmv", (1, 0, 0, variance), strict=True)]
    source = draft.output(draft.node("BatchNormalization", draft.input("batch", 2, 3), *parameters, epsilon=1e-12))
    result = convert(source)
    kinds = {name: array.dtype.name for name, array in constants(result).items()}
    assert kinds == {**dict.fromkeys("gb", "float16"), **dict.fromkeys("mv", kind)}
    if opset > 13:
        same_answers(source, result)


def test_sizes_are_computed_as_they_were() -> None:
    """An exporter's half of a height: 4100 x 0.5 = 2050 is no trouble, but 4098 x 0.5 = 2049 is no number of float16."""
    draft = Draft()
    x = draft.input(1, 1, "height", 2, name="x")
    height = draft.node("Cast", draft.node("Shape", x, start=2, end=3), to=TensorProto.FLOAT)
    half = draft.node("Cast", draft.node("Mul", height, draft.constant(0.5)), to=TensorProto.INT64)
    shape = draft.node("Concat", draft.constant([1, 1], np.int64), half, draft.constant([2], np.int64), axis=0)
    source = draft.output(draft.node("Resize", x, "", "", shape))
    result = convert(source)
    assert run(result, {"x": np.ones((1, 1, 4098, 2), np.float32)})[0].shape == (1, 1, 2049, 2)


def test_positions_are_computed_as_they_were_and_cast_where_they_meet_data() -> None:
    draft = Draft()
    x = draft.input("batch", 2, name="x")
    rows = draft.node("Squeeze", draft.node("Cast", draft.node("Shape", x, start=0, end=1), to=TensorProto.FLOAT))
    positions = draft.node("Range", draft.constant(0.0), rows, draft.constant(1.0))
    scaled = draft.node("Unsqueeze", draft.node("Mul", positions, draft.constant(0.01)), draft.constant([1], np.int64))
    source = draft.output(draft.node("Add", x, scaled))
    result = convert(source)
    kinds = types(result)
    assert [kinds[node.output[0]] for node in result.graph.node if node.op_type == "Mul"] == [TensorProto.FLOAT]
    assert [kinds[node.output[0]] for node in result.graph.node if node.op_type == "Add"] == [TensorProto.FLOAT16]
    same_answers(source, result, {"x": np.ones((4000, 2), np.float32)})


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
    result = convert(source)
    assert operators(result.graph).count("Cast") == 2
    assert [kind for kind in types(result).values() if kind == TensorProto.FLOAT] == [TensorProto.FLOAT] * 2
    same_answers(source, result, {"x": np.ones((3, 3), np.float32)})


@pytest.mark.parametrize("attributes", [{"dtype": TensorProto.FLOAT}, {}])  # by default the type of what it is like
def test_what_onnxruntime_cannot_make_of_16_bits_is_cast(attributes) -> None:
    draft = Draft()
    y = draft.node("Relu", draft.input(3, 3, name="x"))
    source = draft.output(draft.node("Mul", y, draft.node("EyeLike", y, **attributes)))
    result = convert(source)
    assert operators(result.graph) == ["Cast", "Relu", "EyeLike", "Cast", "Mul", "Cast"]
    same_answers(source, result)


def body(name: str, op_type: str, weight: np.ndarray | None = None) -> onnx.GraphProto:
    """A branch that reads `x` from outside and has a constant of its own."""
    tensor = numpy_helper.from_array(np.full((3, 3), 0.1, np.float32) if weight is None else weight, f"{name}.weight")
    nodes = [
        helper.make_node(op_type, ["x"], [f"{name}.a"]),
        helper.make_node("MatMul", [f"{name}.a", f"{name}.weight"], [f"{name}.y"]),
    ]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)], [tensor])


def branching(opset=20) -> onnx.ModelProto:
    draft = Draft(opset)
    draft.input(2, 3, name="x")
    condition = draft.input(name="condition", dtype=np.bool_)
    y = draft.node("If", condition, then_branch=body("yes", "Relu"), else_branch=body("no", "Neg"))
    return draft.output(draft.node("Relu", y))


def test_bodies_are_converted_with_what_they_capture() -> None:
    source = branching()
    result = convert(source)
    assert operators(result.graph) == ["Cast", "If", "Relu", "Cast"]
    for attribute in result.graph.node[1].attribute:
        assert operators(attribute.g) == ["Relu" if attribute.name == "then_branch" else "Neg", "MatMul"]
        assert [tensor.data_type for tensor in attribute.g.initializer] == [TensorProto.FLOAT16]
    for condition in (True, False):
        x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
        same_answers(source, result, {"x": x, "condition": np.array(condition)})


def test_a_body_whose_node_does_not_admit_the_type_keeps_its_outputs() -> None:
    """If gives no bfloat16 before opset 16, but MatMul takes it from 13 on; ReduceMean of 15 is another one in 22."""
    source = branching(15)
    source.graph.node.append(helper.make_node("ReduceMean", [source.graph.output[0].name], ["unused"], axes=[1]))
    result = convert(source, BRAIN)
    [branch] = [node for node in result.graph.node if node.op_type == "If"]
    for attribute in branch.attribute:
        assert operators(attribute.g)[-2:] == ["MatMul", "Cast"]
        assert [tensor.data_type for tensor in attribute.g.initializer] == [TensorProto.BFLOAT16]


def test_loops_carry_16_bits() -> None:
    draft = Draft()
    x = draft.input(2, 3, name="x")
    step = numpy_helper.from_array(np.full((2, 3), 0.1, np.float32), "step")
    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["state", "step"], ["next"])]
    nodes.append(helper.make_node("Relu", ["next"], ["seen"]))
    info = [("turn", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("state", TensorProto.FLOAT, [2, 3])]
    given = [helper.make_tensor_value_info(*entry) for entry in info]
    kinds = [("on", TensorProto.BOOL), ("next", TensorProto.FLOAT), ("seen", TensorProto.FLOAT)]
    inner = helper.make_graph(nodes, "turns", given, [helper.make_tensor_value_info(*kind, None) for kind in kinds], [step])
    last = draft.node("Loop", draft.constant(4, np.int64), "", x, body=inner, name="loop", outputs=2)
    draft.node("Relu", "loop.y1", name="all")
    shapes = {last: [2, 3], "all.y": [4, 2, 3]}
    draft.outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    source = draft.output()
    result = convert(source)
    assert operators(result.graph) == ["Cast", "Loop", "Cast", "Relu", "Cast"]
    same_answers(source, result)


def test_functions_are_converted() -> None:
    nodes = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Mul", ["v", "half"], ["w"]),
    ]
    function = helper.make_function("local", "Halve", ["v"], ["w"], nodes, [helper.make_opsetid("", 20)])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    call = helper.make_node("Halve", ["x"], ["y"], domain="local")
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    main = helper.make_graph([call], "main", [x], [y])
    source = helper.make_model(main, functions=[function], opset_imports=imports, ir_version=10)
    result = convert(source)
    assert operators(result.graph) == ["Cast", "Constant", "Mul", "Cast"]
    same_answers(source, result)


def test_sequences_of_tensors() -> None:
    draft = Draft()
    x = draft.node("Relu", draft.input(2, 3))
    items = draft.node("SequenceConstruct", x, draft.node("Neg", x))
    source = draft.output(draft.node("ConcatFromSequence", items, axis=0))
    result = convert(source)
    assert operators(result.graph) == ["Cast", "Relu", "Neg", "SequenceConstruct", "ConcatFromSequence", "Cast"]
    same_answers(source, result)


def test_a_sequence_that_begins_empty() -> None:
    draft = Draft()
    x = draft.node("Relu", draft.input(2, 3))
    items = draft.node("SequenceInsert", draft.node("SequenceEmpty"), x)
    draft.node("ConcatFromSequence", items, axis=0, name="last")
    draft.outputs.append(helper.make_tensor_value_info("last.y", TensorProto.FLOAT, [2, 3]))
    source = draft.output()
    same_answers(source, convert(source))


def test_a_sequence_at_the_border_cannot_be_cast() -> None:
    draft = Draft()
    items = draft.node("SequenceConstruct", draft.node("Relu", draft.input(2, 3)), name="items")
    draft.outputs.append(helper.make_tensor_sequence_value_info("items.y", TensorProto.FLOAT, None))
    model = ir.from_proto(draft.output())
    with pytest.raises(PrecisionError, match=r"'items\.y' is a sequence, which cannot be cast"):
        precision.convert(model, HALF, {})
    assert items == "items.y"


def test_an_operator_that_onnx_does_not_know_has_to_tell_its_types() -> None:
    draft = Draft()
    x = draft.node("Relu", draft.input(2, 3, name="x"))
    draft.node("Relu", "fused.y", name="last")
    draft.nodes.insert(1, helper.make_node("FusedThing", [x], ["fused.y"], domain="com.example", name="fused"))
    draft.outputs.append(helper.make_tensor_value_info("last.y", TensorProto.FLOAT, [2, 3]))
    main = helper.make_graph(draft.nodes, "main", draft.inputs, draft.outputs)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    source = helper.make_model(main, opset_imports=imports, ir_version=10)
    with pytest.raises(PrecisionError, match=r"the type of 'fused\.y', which 'fused' gives, is not known"):
        precision.convert(ir.from_proto(source), HALF, {})
    main.value_info.append(helper.make_tensor_value_info("fused.y", TensorProto.FLOAT, [2, 3]))
    source = helper.make_model(main, opset_imports=imports, ir_version=10)
    assert operators(convert(source).graph) == ["Cast", "Relu", "Cast", "FusedThing", "Cast", "Relu", "Cast"]


@BOTH
def test_a_model_that_is_of_the_type_already_is_unchanged(dtype) -> None:
    draft = Draft(20, dtype=dtype.numpy())
    y = draft.node("MatMul", draft.input("batch", 3), draft.drawn(3, 2))
    source = ir.from_proto(draft.output(draft.node("Relu", draft.node("Relu", y))))
    before = ir.to_proto(source).SerializeToString()
    assert precision.convert(source, dtype, {}) == precision.Conversion()
    assert ir.to_proto(source).SerializeToString() == before


def test_only_the_two_types() -> None:
    with pytest.raises(PrecisionError, match="cannot convert to int8, wanted float16 or bfloat16"):
        precision.convert(ir.from_proto(convolution()), ir.DataType.INT8, {})


@pytest.mark.parametrize("opset", range(13, 23))
def test_bfloat16_raises_the_opset_where_nothing_but_types_changes(opset) -> None:
    result = convert(convolution(opset), BRAIN)
    assert result.opset_import[0].version == 22
    assert operators(result.graph) == ["Cast", "Conv", "Relu", "MaxPool", "Add", "Cast"]
    assert {array.dtype for array in constants(result).values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_bfloat16_keeps_the_opset_where_an_operator_means_another_thing_later() -> None:
    draft = Draft(17)
    y = draft.node("Conv", draft.input("batch", 3, 6, 6), draft.drawn(8, 3, 3, 3))
    source = draft.output(draft.node("ReduceMean", draft.node("Relu", y), axes=[2, 3]))
    model = ir.from_proto(source)
    done = precision.convert(model, BRAIN, {})
    assert graph.opsets(model)[""] == 17
    assert done.wide == {"Conv": 1}
    assert [node.op_type for node in model.graph] == ["Conv", "Cast", "Relu", "ReduceMean", "Cast"]
    assert set(FLOATS) >= {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.FLOAT}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
