"""One batch norm, found by what people call it."""

import numpy as np
import onnx_ir as ir
import pytest
from normserve_models import explain
from normserve_models.explain import Described, Parameter, UnknownNormError
from normserve_models.fold import fold
from normserve_models.legality import Reason
from normserve_models.report import Norm
from normserve_models.testing import Draft
from onnx import helper


def norm(draft: Draft, x: str, scale: str, name: str) -> str:
    others = [draft.constant(values, name=f"{name}.{role}") for role, values in (("b", [0, -2]), ("m", [1, 3]), ("v", [4, 9]))]
    return draft.node("BatchNormalization", x, scale, *others, name=name, epsilon=0.5)


@pytest.fixture
def model() -> ir.Model:
    """Three batch norms: the first two share their scale."""
    draft = Draft()
    shared = draft.constant([0.5, 1.5], name="layer1.bn.weight")
    y = norm(draft, norm(draft, draft.input("batch", 2, name="x"), shared, "node_1"), shared, "node_2")
    return ir.from_proto(draft.output(norm(draft, y, draft.constant([1, 2], name="layer2.bn.weight"), "node_3")))


def find(model: ir.Model, name: str) -> list[Described]:
    norms = fold(model.clone())
    return explain.find(model, norms, name)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("node_2", [1]),
        ("node_2.y", [1]),
        ("layer2.bn.weight", [2]),
        ("layer2.bn", [2]),
        ("layer1.bn", [0, 1]),
    ],
)
def test_it_is_found(model, name, found) -> None:
    assert [described.index for described in find(model, name)] == found


def test_it_is_described(model) -> None:
    [described] = find(model, "node_2")
    assert (described.name, described.output, described.channels, described.epsilon) == ("node_2", "node_2.y", 2, 0.5)
    assert described.parameters == [
        Parameter("scale", "layer1.bn.weight", 0.5, 1.5),
        Parameter("shift", "node_2.b", -2, 0),
        Parameter("mean", "node_2.m", 1, 3),
        Parameter("variance", "node_2.v", 4, 9),
    ]


def test_parameters_that_are_no_constants_have_no_range() -> None:
    draft = Draft()
    x = draft.input("batch", 2, name="x")
    draft.inputs.append(helper.make_tensor_value_info("node.v", 1, [2]))  # a default, which a caller may override
    computed = draft.node("ReduceMax", x, draft.constant([0], dtype=np.int64), keepdims=0)
    y = norm(draft, x, computed, "node")
    described = find(ir.from_proto(draft.output(y)), "node")[0]
    assert [parameter.low for parameter in described.parameters] == [None, -2, 1, None]
    assert described.channels == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("node_4", "did you mean 'node_3', 'node_2', 'node_1'"),
        ("LAYER2", r"did you mean 'layer2\.bn'"),
        ("zzz", r"there are 'layer1\.bn', 'node_1', 'node_1\.y', .* and others"),
    ],
)
def test_an_unknown_name_gets_others(model, name, says) -> None:
    with pytest.raises(UnknownNormError, match=f"no batch norm is called '{name}'.*{says}"):
        find(model, name)


def test_one_that_is_no_node_of_the_file_is_found_by_what_the_report_calls_it(model) -> None:
    """Functions are inlined before they fold, and a frozen batch norm is a row of other operators."""
    norms = [Norm("inlined", "inlined.weight", folded=True), Norm("node_1", "w", folded=True)]
    assert explain.find(model, norms, "inlined.weight") == [Described(0, "inlined")]
    model.graph.node(0).op_type = "Mul"
    assert explain.find(model, norms, "node_1.y") == [Described(1, "node_1", "node_1.y")]


def test_names_that_occur_twice_are_told_apart_by_their_order(model) -> None:
    for node in model.graph:
        node.name = "same"
    assert [described.output for described in find(model, "same")] == ["node_1.y", "node_2.y", "node_3.y"]


def test_a_file_without_any_says_so() -> None:
    draft = Draft()
    with pytest.raises(UnknownNormError, match="the file holds no batch norm"):
        find(ir.from_proto(draft.output(draft.node("Neg", draft.input("batch", 2)))), "bn1")


def test_every_reason_is_explained() -> None:
    assert all(explain.explanation(reason.value) == reason.explanation for reason in Reason)
    assert all(reason.explanation for reason in Reason)
    assert explain.explanation("no such code") == ""
