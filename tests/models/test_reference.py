"""The float64 evaluator: everything widened, control flow and functions included."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import testing
from normserve_models.reference import NoReferenceError, Reference, widened
from normserve_models.testing import Draft
from onnx import helper


def test_nothing_is_rounded_to_float32() -> None:
    draft = Draft()
    x = draft.input("batch", 1)
    tiny = draft.node("Div", draft.node("Add", x, draft.constant([1.0])), draft.constant([3.0]))
    back = draft.node("Sub", draft.node("Cast", tiny, to=onnx.TensorProto.FLOAT), draft.node("Constant", value_float=0.5))
    [y] = testing.answers(draft.output(back), {x: np.full((2, 1), 1e-12)}).values()
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, (1 + 1e-12) / 3 - 0.5, rtol=1e-15)


def test_float16_constants_are_taken_as_they_are() -> None:
    draft = Draft(dtype=np.float16)
    x = draft.input("batch", 1)
    model = draft.output(draft.node("Mul", x, draft.constant([0.1])))
    [y] = testing.answers(model, {x: np.ones((1, 1), np.float16)}).values()
    assert y.item() == float(np.float16(0.1))


def test_bodies_see_the_values_around_them() -> None:
    draft = Draft()
    x = draft.input("batch", 2)
    then = helper.make_graph(
        [helper.make_node("Add", [x, "one"], ["a"])],
        "then",
        [],
        [helper.make_tensor_value_info("a", 1, None)],
        [helper.make_tensor("one", 1, [1], [1.0])],
    )
    other = helper.make_graph([helper.make_node("Neg", [x], ["b"])], "other", [], [helper.make_tensor_value_info("b", 1, None)])
    chosen = draft.node("If", draft.constant(True, dtype=np.bool_), then_branch=then, else_branch=other)
    [y] = testing.answers(draft.output(chosen), {x: np.full((1, 2), 1e-9)}).values()
    np.testing.assert_array_equal(y, np.full((1, 2), 1 + 1e-9))


def test_functions_of_the_model_are_run() -> None:
    draft = Draft()
    x = draft.input("batch", 2)
    model = draft.output(draft.node("Neg", x))
    body = [helper.make_node("Mul", ["v", "v"], ["w"])]
    model.functions.append(helper.make_function("local", "Square", ["v"], ["w"], body, [helper.make_opsetid("", 20)]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node.insert(0, helper.make_node("Square", [x], ["s"], domain="local"))
    model.graph.node[1].input[0] = "s"
    [y] = testing.answers(model, {x: np.full((1, 2), 3.0)}).values()
    np.testing.assert_array_equal(y, [[-9.0, -9.0]])


def test_an_operator_without_a_reference_is_named() -> None:
    node = ir.node("Mystery", [ir.val("x")], domain="their.domain", name="it")
    graph = ir.Graph(list(node.inputs), node.outputs, nodes=[node], opset_imports={"": 20, "their.domain": 1})
    node.outputs[0].name = "y"
    with pytest.raises(NoReferenceError, match="Mystery 'it'"):
        Reference(ir.Model(graph, ir_version=10)).run({"x": np.zeros(1)})


def test_an_input_that_is_lacking_is_named() -> None:
    draft = Draft()
    model = draft.output(draft.node("Neg", draft.input("batch", 2, name="image")))
    with pytest.raises(NoReferenceError, match="image"):
        testing.answers(model, {})


def test_progress_ends_at_one() -> None:
    draft = Draft()
    x = draft.input("batch", 2)
    model = draft.output(draft.node("Neg", draft.node("Neg", x)))
    seen: list[float] = []
    Reference(ir.from_proto(model)).run({x: np.zeros((1, 2))}, seen.append)
    assert seen == [0.5, 1.0]


def test_widened_leaves_integers_alone() -> None:
    assert widened(np.zeros(2, np.float16)).dtype == np.float64
    assert widened(np.zeros(2, np.int8)).dtype == np.int8
    assert widened(None) is None


def test_the_values_between_can_be_seen() -> None:
    draft = Draft()
    x = draft.input("batch", 2)
    model = draft.output(draft.node("Neg", draft.node("Exp", x, name="inner"), name="outer"))
    seen = {}
    Reference(ir.from_proto(model)).run({x: np.zeros((1, 2), np.float32)}, see=seen.__setitem__)
    assert list(seen) == ["inner.y", "outer.y"]
    np.testing.assert_array_equal(seen["inner.y"], np.ones((1, 2)))
    assert seen["inner.y"].dtype == np.float64


def shaken(op_type: str, *constants: float) -> float:
    """How far one operator on ones is off by shaking."""
    draft = Draft()
    x = draft.input("batch", 50)
    arrays = [draft.constant(np.full((50, 50), value)) for value in constants]
    model = draft.output(draft.node(op_type, x, *arrays))

    def answer(**options):
        [y] = Reference(ir.from_proto(model), **options).run({x: np.ones((50, 50))}).values()
        return y

    return float(np.abs(answer(shake=1e-3, seed=1) / answer() - 1).max())


def test_shaking_makes_products_wrong_by_a_share_of_themselves() -> None:
    assert 1e-3 < shaken("MatMul", 0.5) < 2.1e-3


def test_shaking_leaves_other_operators_alone() -> None:
    """A size that is computed, or the limit of a comparison, must not become another one."""
    assert shaken("Floor") == 0
    assert shaken("Mul", 0.5) == 0
