"""Conversion to 16 bits: one rounding, and the interface as it was."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import graph, precision
from normserve_models.constants import FLOATS
from normserve_models.precision import PrecisionError
from normserve_models.testing import Draft
from normserve_models.testing_precision import BRAIN, HALF, assert_same_answers, constants, converted, op_types, run, types
from onnx import TensorProto, helper

BOTH = pytest.mark.parametrize("dtype", [HALF, BRAIN])


def convolution(opset=20, *, as_nodes=False) -> onnx.ModelProto:
    draft = Draft(opset, as_nodes=as_nodes)
    y = draft.node("Conv", draft.input("batch", 3, 6, 6, name="image"), draft.drawn(8, 3, 3, 3), draft.drawn(8))
    y = draft.node("MaxPool", draft.node("Relu", y), kernel_shape=[2, 2])
    return draft.output(draft.node("Add", y, draft.constant(0.1), name="last"))


@pytest.mark.parametrize("opset", [9, 11, *range(13, 23)])
@pytest.mark.parametrize("as_nodes", [False, True])
def test_everything_is_low_but_the_interface(opset, as_nodes) -> None:
    source = convolution(opset, as_nodes=as_nodes)
    result = converted(source)
    assert op_types(result.graph)[-1] == "Cast"
    assert [kind for kind in types(result).values() if kind == TensorProto.FLOAT] == [TensorProto.FLOAT] * 2
    assert {array.dtype for array in constants(result).values()} <= {np.dtype(np.float16)}
    assert_same_answers(source, result)


def test_double_is_converted_too() -> None:
    draft = Draft(dtype=np.float64)
    source = draft.output(draft.node("MatMul", draft.input("batch", 4), draft.drawn(4, 3)))
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "MatMul", "Cast"]
    assert constants(result)["c2"].dtype == np.float16
    assert_same_answers(source, result)


@BOTH
def test_each_weight_is_the_nearest_to_the_exact_one(dtype) -> None:
    draft = Draft(22)
    source = draft.output(draft.node("MatMul", draft.input("batch", 400), draft.drawn(400, 200, name="weight")))
    exact = np.random.default_rng(3).standard_normal((400, 200))
    # The middle between two neighbours and a little: through float32 the little is lost, and the tie goes to even.
    digits = {HALF: 11, BRAIN: 8}[dtype]
    exact[0] = 1 + 2.0**-digits + 2.0**-40
    got = constants(converted(source, dtype, {"weight": exact}))["weight"]
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
    got = constants(converted(source, HALF, {"scales": exact}))["scales"]
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
    result = converted(draft.output(y))
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
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "MatMul", "Cast"]
    assert result.graph.node[0].attribute[0].i == TensorProto.FLOAT16
    assert_same_answers(source, result, {"x1": np.array([[0, 128, 255]], np.uint8)})


def test_an_output_that_is_used_inside_too() -> None:
    draft = Draft()
    y = draft.node("Relu", draft.input("batch", 3, name="x"), name="both")
    source = draft.output("both.y", draft.node("MatMul", y, draft.drawn(3, 2)))
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "Relu", "Cast", "MatMul", "Cast"]
    assert_same_answers(source, result)


def test_an_input_and_a_constant_that_are_outputs() -> None:
    draft = Draft()
    x = draft.input("batch", 3, name="x")
    weight = draft.drawn(3, 3, name="weight")
    source = draft.output(draft.node("MatMul", x, weight), weight)
    result = converted(source)
    assert {name: array.dtype.name for name, array in constants(result).items()} == {
        "weight": "float32",
        "weight.float16": "float16",
    }
    assert_same_answers(source, result)


def test_a_constant_that_a_caller_may_override_is_an_input() -> None:
    draft = Draft()
    weight = draft.drawn(3, 2, name="weight")
    draft.inputs.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, [3, 2]))
    source = draft.output(draft.node("MatMul", draft.input("batch", 3, name="x"), weight))
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "Cast", "MatMul", "Cast"]
    batch = {"x": np.ones((1, 3), np.float32), "weight": np.full((3, 2), 2, np.float32)}
    np.testing.assert_array_equal(run(result, batch)[0], [[6, 6]])


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
    result = converted(convolution(opset), BRAIN)
    assert result.opset_import[0].version == 22
    assert op_types(result.graph) == ["Cast", "Conv", "Relu", "MaxPool", "Add", "Cast"]
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
