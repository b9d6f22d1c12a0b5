"""Bodies, functions, sequences and unknown operators on the way to 16 bits."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import precision
from normserve_models.precision import PrecisionError
from normserve_models.testing import Draft
from normserve_models.testing_precision import BRAIN, HALF, assert_same_answers, converted, op_types
from onnx import TensorProto, helper, numpy_helper


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
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "If", "Relu", "Cast"]
    for attribute in result.graph.node[1].attribute:
        assert op_types(attribute.g) == ["Relu" if attribute.name == "then_branch" else "Neg", "MatMul"]
        assert [tensor.data_type for tensor in attribute.g.initializer] == [TensorProto.FLOAT16]
    for condition in (True, False):
        x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
        assert_same_answers(source, result, {"x": x, "condition": np.array(condition)})


def test_a_body_whose_node_does_not_admit_the_type_keeps_its_outputs() -> None:
    """If gives no bfloat16 before opset 16, but MatMul takes it from 13 on; ReduceMean of 15 is another one in 22."""
    source = branching(15)
    source.graph.node.append(helper.make_node("ReduceMean", [source.graph.output[0].name], ["unused"], axes=[1]))
    result = converted(source, BRAIN)
    [branch] = [node for node in result.graph.node if node.op_type == "If"]
    for attribute in branch.attribute:
        assert op_types(attribute.g)[-2:] == ["MatMul", "Cast"]
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
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "Loop", "Cast", "Relu", "Cast"]
    assert_same_answers(source, result)


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
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "Constant", "Mul", "Cast"]
    assert_same_answers(source, result)


def test_sequences_of_tensors() -> None:
    draft = Draft()
    x = draft.node("Relu", draft.input(2, 3))
    items = draft.node("SequenceConstruct", x, draft.node("Neg", x))
    source = draft.output(draft.node("ConcatFromSequence", items, axis=0))
    result = converted(source)
    assert op_types(result.graph) == ["Cast", "Relu", "Neg", "SequenceConstruct", "ConcatFromSequence", "Cast"]
    assert_same_answers(source, result)


def test_a_sequence_that_begins_empty() -> None:
    draft = Draft()
    x = draft.node("Relu", draft.input(2, 3))
    items = draft.node("SequenceInsert", draft.node("SequenceEmpty"), x)
    draft.node("ConcatFromSequence", items, axis=0, name="last")
    draft.outputs.append(helper.make_tensor_value_info("last.y", TensorProto.FLOAT, [2, 3]))
    source = draft.output()
    assert_same_answers(source, converted(source))


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
    assert op_types(converted(source).graph) == ["Cast", "Relu", "Cast", "FusedThing", "Cast", "Relu", "Cast"]
