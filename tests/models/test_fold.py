"""What holds for every fold: sharing, names, order, repetition, cost."""

import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import testing
from normserve_models.fold import fold
from normserve_models.testing import Draft


def folds(model: onnx.ModelProto, left: int = 0) -> onnx.ModelProto:
    result, norms = testing.folded(model)
    assert sum(not norm.folded for norm in norms) == left
    return result


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
@pytest.mark.parametrize("normed", [(True, True), (True, False), (False, True)])
def test_a_shared_weight_is_cloned_for_each_use(operator, normed) -> None:
    """fx.fuse changes it under the other use, off by 0.8 to 3."""
    draft = Draft()
    spatial = () if operator in {"Gemm", "MatMul"} else (4, 4)
    weight = draft.drawn(4, 4, *[3] * len(spatial))
    bias = [] if operator == "MatMul" else [draft.drawn(4)]
    x = draft.input("batch", 4, *spatial)
    outputs = [draft.node(operator, x, weight, *bias) for _ in normed]
    folds(draft.output(*(draft.norm(y, 4) if wanted else y for y, wanted in zip(outputs, normed, strict=True))))


@pytest.mark.parametrize(("places", "folds"), [(1, False), (600, True)])
def test_a_large_weight_is_cloned_only_where_that_saves_more(places, folds) -> None:
    draft = Draft()
    weight = draft.constant(np.full((550, 550, 1), 0.01))
    y = draft.node("Relu", draft.norm(draft.node("Conv", draft.input("batch", 550, places), weight), 550))
    model = draft.output(y, draft.node("Conv", y, weight))
    [norm] = fold(ir.from_proto(model))
    assert (norm.folded, norm.reason) == ((True, None) if folds else (False, "cost"))


def test_a_shared_layer_in_a_row() -> None:
    draft = Draft()
    weight = draft.drawn(4, 4, 1, 1)
    y = draft.input("batch", 4, 3, 3)
    for _ in range(3):
        y = draft.norm(draft.node("Conv", y, weight), 4)
    folds(draft.output(y))


def test_a_shared_batch_norm() -> None:
    draft = Draft()
    x = draft.input("batch", 3, 4, 4)
    parameters = [draft.drawn(4) for _ in range(3)] + [draft.constant(np.ones(4))]
    convs = [draft.node("Conv", x, draft.drawn(4, 3, 1, 1)) for _ in range(2)]
    folds(draft.output(*(draft.node("BatchNormalization", y, *parameters) for y in convs)))


def test_parameters_that_something_else_uses_stay_as_they_are() -> None:
    draft = Draft()
    weight, bias = draft.drawn(4, 4), draft.drawn(4)
    y = draft.norm(draft.node("Gemm", draft.input("batch", 4), weight, bias), 4)
    model = draft.output(y, draft.node("Neg", weight), draft.node("Neg", bias))
    result = folds(model)
    before = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    after = {tensor.name: tensor.raw_data for tensor in result.graph.initializer}
    assert all(after[name] == before[name] for name in (weight, bias))


def test_a_weight_that_is_an_output_stays_one() -> None:
    draft = Draft()
    weight = draft.drawn(4, 4)
    y = draft.norm(draft.node("Gemm", draft.input("batch", 4), weight), 4)
    folds(draft.output(y, weight))


def test_outputs_keep_their_names_and_symbolic_shapes() -> None:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 4, 4, name="image"), draft.drawn(4, 3, 1, 1))
    result = folds(draft.output(draft.norm(y, 4, name="last")))
    [output] = result.graph.output
    assert output.name == "last.y"
    assert [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim] == ["batch", 4, 4, 4]


def test_names_that_are_taken_are_not_given() -> None:
    draft = Draft()
    weight = draft.drawn(4, 4, name="w")
    taken = draft.drawn(4, 4, name="w.folded")
    y = draft.norm(draft.node("Gemm", draft.input("batch", 4), weight), 4)
    result = folds(draft.output(draft.node("MatMul", y, taken)))
    assert {tensor.name for tensor in result.graph.initializer} >= {"w.folded", "w.folded.2"}


def test_nodes_without_names_fold_and_are_reported_by_their_outputs() -> None:
    draft = Draft()
    y = draft.norm(draft.node("Gemm", draft.input("batch", 4), draft.drawn(4, 4)), 4, name="norm")
    model = draft.output(y)
    for node in model.graph.node:
        node.name = ""
    _, [norm] = testing.folded(model)
    assert norm.name == "norm.y"


def test_the_report_is_in_the_order_of_the_graph() -> None:
    draft = Draft()
    y = draft.input("batch", 4)
    for name in "abc":
        y = draft.node("Relu", draft.norm(draft.node("Gemm", y, draft.drawn(4, 4), name=f"gemm-{name}"), 4, name=name))
    _, norms = testing.folded(draft.output(y))
    assert [(norm.name, norm.into) for norm in norms] == [(name, [f"gemm-{name}"]) for name in "abc"]


def test_a_graph_without_batch_norms_is_left_alone() -> None:
    draft = Draft()
    model = draft.output(draft.node("Relu", draft.input("batch", 4)))
    graph = ir.from_proto(model)
    assert fold(graph) == []
    assert ir.to_proto(graph) == model


def test_operators_of_other_domains_pass_untouched() -> None:
    draft = Draft()
    y = draft.norm(draft.node("Gemm", draft.input("batch", 4), draft.drawn(4, 4)), 4)
    model = ir.from_proto(draft.output(y))
    node = ir.Node("their.domain", "Conv", [model.graph.outputs[0]], num_outputs=1, name="theirs")
    model.graph.append(node)
    model.opset_imports["their.domain"] = 1
    node.outputs[0].name = "z"
    model.graph.outputs.append(node.outputs[0])
    [norm] = fold(model)
    assert norm.folded
    assert [node.op_type for node in model.graph] == ["Gemm", "Conv"]


def test_the_own_domain_may_be_written_out() -> None:
    draft = Draft()
    y = draft.node("Softmax", draft.norm(draft.node("Gemm", draft.input("batch", 4), draft.drawn(4, 4)), 4))
    model = draft.output(y)
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    folds(model)


def chain(length: int, *, broken: bool) -> onnx.ModelProto:
    """A long chain of layers, or of batch norms that nothing takes in."""
    draft = Draft()
    y = draft.input("batch", 2)
    weight = draft.drawn(2, 2)
    for _ in range(length):
        y = draft.norm(y if broken else draft.node("Gemm", y, weight), 2)
    return draft.output(y)


@pytest.mark.parametrize("broken", [False, True], ids=["layers", "norms"])
def test_the_time_is_linear_in_the_nodes(broken) -> None:
    seconds = {}
    for length in (300, 3000):
        model = ir.from_proto(chain(length, broken=broken))
        started = time.perf_counter()
        norms = fold(model)
        seconds[length] = time.perf_counter() - started
        assert sum(not norm.folded for norm in norms) == int(broken)
    assert seconds[3000] < 30 * seconds[300] + 0.1  # a square law would be a factor of 100
