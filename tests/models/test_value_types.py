"""The types that schemas tell: the same as onnx infers, where a file says nothing."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import value_types
from normserve_models.testing import Draft
from onnx import TensorProto, helper, numpy_helper


def bare(nodes, *outputs, inputs=()) -> onnx.ModelProto:
    """A model that says the types of its inputs only."""
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]), *inputs]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    return helper.make_model(helper.make_graph(nodes, "main", given, results), opset_imports=[helper.make_opsetid("", 20)])


def found(proto: onnx.ModelProto) -> dict[str, str]:
    model = ir.from_proto(proto)
    value_types.infer(model)
    values = [value for node in model.graph.all_nodes() for value in node.outputs]
    return {value.name: value_types.string(value.type) for value in values if value.type is not None}


NODE = helper.make_node


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (NODE("Relu", ["x"], ["y"]), "tensor(float)"),
        (NODE("Shape", ["x"], ["y"]), "tensor(int64)"),
        (NODE("Greater", ["x", "x"], ["y"]), "tensor(bool)"),
        (NODE("Cast", ["x"], ["y"], to=TensorProto.DOUBLE), "tensor(double)"),
        (NODE("Constant", [], ["y"], value_float=1.0), "tensor(float)"),
        (NODE("Constant", [], ["y"], value_ints=[1]), "tensor(int64)"),
        (NODE("Constant", [], ["y"], value=numpy_helper.from_array(np.zeros(1, np.float16))), "tensor(float16)"),
        (NODE("EyeLike", ["x"], ["y"]), "tensor(float)"),
        (NODE("EyeLike", ["x"], ["y"], dtype=TensorProto.INT32), "tensor(int32)"),
        (NODE("RandomNormal", [], ["y"], shape=[2]), "tensor(float)"),
        (NODE("ArgMax", ["x"], ["y"]), "tensor(int64)"),
        (NODE("SequenceConstruct", ["x", "x"], ["y"]), "seq(tensor(float))"),
        (NODE("SequenceEmpty", [], ["y"]), "seq(tensor(float))"),
        (NODE("Optional", ["x"], ["y"]), "optional(tensor(float))"),
    ],
)
def test_of_one_operator(node, kind) -> None:
    assert found(bare([node], "y")) == {"y": kind}


def test_of_what_is_taken_out_of_a_sequence() -> None:
    nodes = [
        NODE("SplitToSequence", ["x"], ["items"]),
        NODE("ConcatFromSequence", ["items"], ["y"], axis=0),
        NODE("ConstantOfShape", ["shape"], ["fill"]),
    ]
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [1])
    assert found(bare(nodes, "y", inputs=[shape])) == {
        "items": "seq(tensor(float))",
        "y": "tensor(float)",
        "fill": "tensor(float)",
    }


def test_of_bodies() -> None:
    inner = helper.make_graph(
        [
            NODE("Identity", ["go"], ["on"]),
            NODE("Neg", ["state"], ["next"]),
            NODE("Cast", ["next"], ["seen"], to=TensorProto.INT32),
        ],
        "turns",
        [onnx.ValueInfoProto(name=name) for name in ("turn", "go", "state")],
        [onnx.ValueInfoProto(name=name) for name in ("on", "next", "seen")],
    )
    given = [
        helper.make_tensor_value_info("n", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    kinds = found(bare([NODE("Loop", ["n", "c", "x"], ["last", "all"], body=inner)], "last", "all", inputs=given))
    assert kinds == {
        "on": "tensor(bool)",
        "next": "tensor(float)",
        "seen": "tensor(int32)",
        "last": "tensor(float)",
        "all": "tensor(int32)",
    }


def test_what_no_schema_tells_stays_unknown() -> None:
    assert found(bare([NODE("Thing", ["x"], ["y"], domain="com.example"), NODE("Relu", ["y"], ["z"])], "z")) == {}


def test_what_the_file_says_stays() -> None:
    draft = Draft(dtype=np.float16)
    model = ir.from_proto(draft.output(draft.node("Relu", draft.input(2))))
    value_types.infer(model)
    assert model.graph.outputs[0].dtype is ir.DataType.FLOAT16


@pytest.mark.parametrize(
    "kind",
    [
        ir.TensorType(ir.DataType.FLOAT),
        ir.SequenceType(ir.TensorType(ir.DataType.FLOAT)),
        ir.OptionalType(ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))),
    ],
)
def test_another_element_type(kind) -> None:
    other = value_types.retyped(kind, ir.DataType.BFLOAT16)
    assert type(other) is type(kind)
    assert value_types.string(other) == value_types.string(kind).replace("float", "bfloat16")
