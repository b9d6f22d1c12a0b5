"""Batch norms and weights in the bodies of If, Loop and Scan, and in model-local functions.

A row is a model; all its batch norms have to go, but those that it says stay.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import graph, measure, runtime, testing
from normserve_models.testing import Draft, folded
from onnx import TensorProto, helper

LOCAL = "local"


class Body(Draft):
    """A graph inside another one: its names are its own."""

    def __init__(self, name: str, *, as_nodes: bool = False) -> None:
        super().__init__(as_nodes=as_nodes, seed=len(name))
        self.name = name

    def fresh(self, stem: str) -> str:
        return f"{self.name}.{super().fresh(stem)}"

    def proto(self, *outputs: str, inputs: tuple[tuple[str, int], ...] = (), kinds: dict[str, int] | None = None):
        kinds = kinds or {}
        declared = [
            helper.make_tensor_value_info(name, kind, None if kind == TensorProto.FLOAT else []) for name, kind in inputs
        ]
        given = [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in outputs]
        return helper.make_graph(self.nodes, self.name, declared, given, self.initializers)


def image(draft: Draft) -> str:
    return draft.input("batch", 4, 5, 5, name="x")


def chosen(draft: Draft) -> str:
    return draft.input(name="choice", dtype=np.bool_)


def conv(draft: Draft, x: str, weight: str | None = None) -> str:
    return draft.node("Conv", x, weight or draft.drawn(4, 4, 3, 3), pads=[1, 1, 1, 1])


def conv_norm(draft: Draft, x: str, weight: str | None = None) -> str:
    return draft.norm(conv(draft, x, weight), 4)


def branches(draft: Draft, then: onnx.GraphProto, other: onnx.GraphProto) -> str:
    return draft.node("If", chosen(draft), then_branch=then, else_branch=other)


def if_with_weights(draft: Draft) -> str:
    x = image(draft)
    then, other = Body("then"), Body("other")
    return branches(draft, then.proto(conv_norm(then, x)), other.proto(other.node("Relu", conv_norm(other, x))))


def if_with_constant_nodes(draft: Draft) -> str:
    x = image(draft)
    then, other = Body("then", as_nodes=True), Body("other", as_nodes=True)
    return branches(draft, then.proto(conv_norm(then, x)), other.proto(other.node("Neg", x)))


def if_with_weights_around_it(draft: Draft) -> str:
    """Both branches use one weight of the outer graph, each with a batch norm of its own."""
    x, weight = image(draft), draft.drawn(4, 4, 3, 3)
    then, other = Body("then"), Body("other")
    return branches(draft, then.proto(conv_norm(then, x, weight)), other.proto(conv_norm(other, x, weight)))


def if_with_statistics_around_it(draft: Draft) -> str:
    """One batch norm's parameters, used by both branches and by a node outside."""
    x = image(draft)
    outside = conv_norm(draft, x)
    parameters = draft.nodes[-1].input[1:]
    graphs = []
    for name in ("then", "other"):
        body = Body(name)
        graphs.append(body.proto(body.node("BatchNormalization", conv(body, x), *parameters)))
    return draft.node("Add", outside, branches(draft, *graphs))


def conv_in_front_of_a_branch(draft: Draft) -> str:
    """Only the branch sees what the convolution gives."""
    x = image(draft)
    y = conv(draft, x)
    then, other = Body("then"), Body("other")
    return branches(draft, then.proto(then.norm(y, 4)), other.proto(other.node("Neg", x)))


def norm_behind_an_if(draft: Draft) -> str:
    x = image(draft)
    then, other = Body("then"), Body("other")
    return draft.norm(branches(draft, then.proto(conv(then, x)), other.proto(conv(other, x))), 4)


def loop(draft: Draft, body: Body, state: str, start: str, output: str) -> str:
    """Run a body three times on a state."""
    number, going = f"{body.name}.number", f"{body.name}.going"
    still = body.node("Identity", going)
    inputs = ((number, TensorProto.INT64), (going, TensorProto.BOOL), (state, TensorProto.FLOAT))
    proto = body.proto(still, output, inputs=inputs, kinds={still: TensorProto.BOOL})
    trips, yes = draft.constant(3, dtype=np.int64), draft.constant(True, dtype=np.bool_)
    return draft.node("Loop", trips, yes, start, body=proto)


def loop_with_weights(draft: Draft) -> str:
    body = Body("loop")
    return loop(draft, body, "state", image(draft), body.node("Tanh", conv_norm(body, "state")))


def loop_with_weights_around_it(draft: Draft) -> str:
    x, weight = image(draft), draft.drawn(4, 4, 3, 3)
    body = Body("loop")
    y = loop(draft, body, "state", x, body.node("Tanh", conv_norm(body, "state", weight)))
    return draft.node("Add", y, conv(draft, x, weight))


def if_in_a_loop(draft: Draft) -> str:
    x = image(draft)
    body, then, other = Body("loop"), Body("then"), Body("other")
    graphs = {"then_branch": then.proto(conv_norm(then, "state")), "else_branch": other.proto(other.node("Neg", "state"))}
    return loop(draft, body, "state", x, body.node("Tanh", body.node("If", chosen(draft), **graphs)))


def scan(draft: Draft) -> str:
    """A step of a recurrent network: state' = tanh(norm(Gemm(state) + input)), and its outputs stacked."""
    start, steps = draft.input(2, 3, name="start"), draft.input(5, 2, 3, name="steps")
    body = Body("scan")
    y = body.node("Gemm", body.node("Add", "state", "step"), body.drawn(3, 3), body.drawn(3))
    y = body.node("Tanh", body.norm(y, 3))
    proto = body.proto(y, body.node("Identity", y), inputs=(("state", TensorProto.FLOAT), ("step", TensorProto.FLOAT)))
    last = draft.node("Scan", start, steps, outputs=2, num_scan_inputs=1, body=proto)
    return draft.node(
        "Add", last, draft.node("ReduceSum", draft.nodes[-1].output[1], draft.constant([0], dtype=np.int64), keepdims=0)
    )


def call(draft: Draft, operator: str, *inputs: str, **attributes) -> str:
    return draft.node(operator, *inputs, domain=LOCAL, **attributes)


PARAMETERS = ("scale", "shift", "mean", "variance")


def parameters(draft: Draft) -> list[str]:
    return [*(draft.drawn(4) for _ in range(3)), draft.constant(np.linspace(0.5, 2, 4))]


def function(name: str, inputs: tuple[str, ...], body: Body, output: str, attributes: tuple[str, ...] = ()):
    imports = [helper.make_opsetid("", body.opset), helper.make_opsetid(LOCAL, 1)]
    return helper.make_function(LOCAL, name, list(inputs), [output], body.nodes, imports, list(attributes))


def layer_of_its_inputs():
    body = Body("layer")
    y = body.node("BatchNormalization", conv(body, "v", "weight"), *PARAMETERS)
    return function("Layer", ("v", "weight", *PARAMETERS), body, y)


def function_called_twice(draft: Draft) -> str:
    """Each call with weights of its own."""
    y = image(draft)
    for _ in range(2):
        y = call(draft, "Layer", y, draft.drawn(4, 4, 3, 3), *parameters(draft))
    return y


def function_called_twice_with_one_weight(draft: Draft) -> str:
    x, weight = image(draft), draft.drawn(4, 4, 3, 3)
    one, other = (call(draft, "Layer", x, weight, *parameters(draft)) for _ in range(2))
    return draft.node("Sub", one, other)


def function_with_constants(draft: Draft) -> str:
    return call(draft, "Whole", call(draft, "Whole", image(draft)))


def layer_of_constants():
    body = Body("whole", as_nodes=True)
    return function("Whole", ("v",), body, conv_norm(body, "v"))


def norm_of_its_inputs():
    """A function that is the batch norm alone, as exporters of layers write it, epsilon handed on."""
    body = Body("norm")
    y = body.node("BatchNormalization", "v", *PARAMETERS)
    epsilon = body.nodes[-1].attribute.add(name="epsilon", type=onnx.AttributeProto.FLOAT)
    epsilon.ref_attr_name = "eps"
    return function("Norm", ("v", *PARAMETERS), body, y, ("eps",))


def function_that_is_the_norm(draft: Draft) -> str:
    return call(draft, "Norm", conv(draft, image(draft)), *parameters(draft), eps=0.25)


def function_in_a_function(draft: Draft) -> str:
    return call(draft, "Outer", image(draft), draft.drawn(4, 4, 3, 3), *parameters(draft))


def layer_that_calls_a_layer():
    body = Body("outer")
    return function(
        "Outer", ("v", "weight", *PARAMETERS), body, call(body, "Norm", conv(body, "v", "weight"), *PARAMETERS, eps=0.1)
    )


def function_in_a_branch(draft: Draft) -> str:
    x = image(draft)
    then, other = Body("then"), Body("other")
    y = call(then, "Layer", x, then.drawn(4, 4, 3, 3), *parameters(then))
    return branches(draft, then.proto(y), other.proto(other.node("Neg", x)))


def branch_in_a_function(draft: Draft) -> str:
    return call(draft, "Either", image(draft), chosen(draft))


def layer_with_a_branch():
    body, then, other = Body("either"), Body("then", as_nodes=True), Body("other", as_nodes=True)
    graphs = {"then_branch": then.proto(conv_norm(then, "v")), "else_branch": other.proto(other.node("Neg", "v"))}
    return function("Either", ("v", "choice"), body, body.node("If", "choice", **graphs))


def loop_that_carries_statistics(draft: Draft) -> str:
    """The mean changes from one turn to the next."""
    body = Body("loop")
    x = draft.input("batch", 4, name="x")
    scale, shift, variance = (draft.constant(np.ones(4)) for _ in range(3))
    y = body.node("Gemm", x, body.drawn(4, 4))
    y = body.node("BatchNormalization", y, scale, shift, "state", variance)
    return loop(
        draft, body, "state", draft.drawn(4), body.node("ReduceMean", y, draft.constant([0], dtype=np.int64), keepdims=0)
    )


def conv_in_front_of_both_branches(draft: Draft) -> str:
    """The other branch needs what the convolution gives, as it is."""
    y = conv(draft, image(draft))
    then, other = Body("then"), Body("other")
    return branches(draft, then.proto(then.norm(y, 4)), other.proto(other.node("Relu", y)))


@dataclass(frozen=True)
class Row:
    """A model.

    Attributes:
        build: Adds it to a draft, and gives its output.
        functions: Its model-local functions.
        stays: The reasons of those batch norms that may stay; any of them.
        rank: Of the output.
    """

    build: Callable[[Draft], str]
    functions: tuple[Callable[[], onnx.FunctionProto], ...] = ()
    stays: tuple[str, ...] = ()
    rank: int = 4


ROWS = [
    *map(Row, [if_with_weights, if_with_constant_nodes, if_with_weights_around_it, if_with_statistics_around_it]),
    *map(Row, [conv_in_front_of_a_branch, norm_behind_an_if]),
    *map(Row, [loop_with_weights, loop_with_weights_around_it, if_in_a_loop]),
    Row(scan, rank=2),
    Row(function_called_twice, (layer_of_its_inputs,)),
    Row(function_called_twice_with_one_weight, (layer_of_its_inputs,)),
    Row(function_with_constants, (layer_of_constants,)),
    Row(function_that_is_the_norm, (norm_of_its_inputs,)),
    Row(function_in_a_function, (layer_that_calls_a_layer, norm_of_its_inputs)),
    Row(function_in_a_branch, (layer_of_its_inputs,)),
    Row(branch_in_a_function, (layer_with_a_branch,)),
    Row(loop_that_carries_statistics, stays=("batch_statistics",), rank=1),
    Row(conv_in_front_of_both_branches, stays=("several_consumers",)),
]


def source(row: Row) -> onnx.ModelProto:
    draft = Draft()
    y = row.build(draft)
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * row.rank)]
    main = helper.make_graph(draft.nodes, "graph", draft.inputs, outputs, draft.initializers)
    imports = [helper.make_opsetid("", draft.opset), helper.make_opsetid(LOCAL, 1)]
    functions = [function() for function in row.functions]
    model = helper.make_model(main, opset_imports=imports, functions=functions, ir_version=testing.IR_VERSION)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def batches(model: onnx.ModelProto):
    """Yield inputs for each way that the model can go."""
    drawn = testing.draw_inputs(model)
    for choice in (True, False) if "choice" in drawn else (True,):
        yield {name: np.array(choice) if name == "choice" else array for name, array in drawn.items()}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.build.__name__)
def test_it_folds_whole_and_exactly(tmp_path, row) -> None:
    model = source(row)
    result, norms = folded(model)
    left = [norm for norm in norms if not norm.folded]
    assert {norm.reason for norm in left} <= set(row.stays)
    assert bool(graph.batch_norms(ir.from_proto(result))) == bool(left) == bool(row.stays)
    onnx.save(result, tmp_path / "folded.onnx")
    session = runtime.session(tmp_path / "folded.onnx")
    for batch in batches(model):
        for name, wanted in testing.answers(model, batch).items():
            assert measure.relative_error(testing.answers(result, batch)[name], wanted) <= 1e-6
            [got] = session.run([name], batch)
            assert measure.relative_error(got, wanted) <= 1e-6


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.build.__name__)
def test_the_table_holds_sound_models(tmp_path, row) -> None:
    """Both ways of a model with a choice differ, so that each is looked at."""
    model = source(row)
    onnx.checker.check_model(model, full_check=True)
    assert graph.batch_norms(ir.from_proto(model))
    onnx.save(model, tmp_path / "model.onnx")
    session = runtime.session(tmp_path / "model.onnx")
    different = []
    for batch in batches(model):
        for name, wanted in testing.answers(model, batch).items():
            [got] = session.run([name], batch)
            assert measure.relative_error(got, wanted) <= 1e-6
            different.append(got)
    assert len(different) == 1 or not np.allclose(*different)
