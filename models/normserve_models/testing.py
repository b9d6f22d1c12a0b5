"""Small graphs for tests, and the judge that every fold of one has to pass."""

# ruff: noqa: S101 - a judge asserts

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import helper, numpy_helper

from normserve_models.fold import fold
from normserve_models.measure import FLOORS, relative_error
from normserve_models.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normserve_models.kernels import Array
    from normserve_models.report import Norm

IR_VERSION = 10
FLOAT_BOUND = 2e-6
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Draft:
    """A graph under construction: every method gives the name of a value.

    Args:
        opset: The opset of the file.
        dtype: The type of inputs and constants where nothing else is said.
        seed: Of the constants that are drawn.
        as_nodes: Write constants as Constant nodes instead of initializers.
    """

    def __init__(self, opset: int = 20, dtype: Any = np.float32, seed: int = 0, *, as_nodes: bool = False) -> None:
        self.opset = opset
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._as_nodes = as_nodes
        self._generator = np.random.default_rng(seed)
        self._count = 0

    def fresh(self, stem: str) -> str:
        """Return a name that nothing has."""
        self._count += 1
        return f"{stem}{self._count}"

    def input(self, *shape: int | str, name: str | None = None, dtype: Any = None) -> str:
        """Declare an input of the graph."""
        name = name or self.fresh("x")
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def drawn(self, *shape: int, dtype: Any = None, name: str | None = None) -> str:
        """Add a constant of normal values."""
        return self.constant(self._generator.standard_normal(shape), dtype=dtype, name=name)

    def constant(self, values: Any, dtype: Any = None, name: str | None = None) -> str:
        """Add a constant."""
        name = name or self.fresh("c")
        tensor = numpy_helper.from_array(np.asarray(values).astype(dtype or self.dtype), name)
        if self._as_nodes:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def node(self, op_type: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes: Any) -> str:
        """Add a node, and return its first output."""
        name = name or self.fresh(op_type.lower())
        results = [f"{name}.y{index or ''}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), results, name=name, **attributes))
        return results[0]

    def norm(self, x: str, channels: int, name: str | None = None, dtype: Any = None, **attributes: Any) -> str:
        """Add a batch norm with drawn parameters."""
        gamma, beta, mean = (self.drawn(channels, dtype=dtype) for _ in range(3))
        variance = self.constant(self._generator.uniform(0.1, 3.0, channels), dtype=dtype)
        return self.node("BatchNormalization", x, gamma, beta, mean, variance, name=name, **attributes)

    def output(self, *names: str, dtype: Any = None) -> onnx.ModelProto:
        """Declare the outputs, and return the checked model."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        shapes = {tensor.name: tensor.dims for tensor in self.initializers}
        self.outputs += [helper.make_tensor_value_info(name, kind, shapes.get(name)) for name in names]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, self.outputs, self.initializers)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        return model


def folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Norm]]:
    """Fold a copy of `model`, and hold it to what every fold has to keep.

    Returns:
        The folded model and what became of its batch norms.

    Raises:
        AssertionError: The result is invalid, differs from the source in float64 by more than its rounding, has lost
            or renamed an input or an output, still holds a constant that nothing uses, or folds further.
    """
    graph = ir.from_proto(model)
    norms = fold(graph)
    result: onnx.ModelProto = ir.to_proto(graph)
    onnx.checker.check_model(result, full_check=True)
    _assert_same_interface(model, result)
    _assert_same_answers(model, result)
    assert not _unused(result) - _unused(model), "a constant is left that nothing uses"
    again = ir.from_proto(result)
    assert not any(norm.folded for norm in fold(again)), "folding twice folds more"
    assert ir.to_proto(again).SerializeToString() == result.SerializeToString(), "folding twice changes the file"
    return result, norms


def all_fold(model: onnx.ModelProto, *operators: str) -> onnx.ModelProto:
    """Fold a copy of `model`, and hold it to all that `folded` does, to what onnxruntime answers, and to having no batch norm.

    Args:
        model: The model.
        operators: The operators that have to be left, in order; not looked at where none is given.

    Returns:
        The folded model.

    Raises:
        AssertionError: A batch norm is left, other operators are, or onnxruntime is further from float64 than float32 allows.
    """
    result, norms = folded(model)
    assert all(norm.folded for norm in norms), [
        f"{norm.name}: {norm.reason}: {norm.detail}" for norm in norms if not norm.folded
    ]
    assert "BatchNormalization" not in operators_of(result)
    assert not operators or operators_of(result) == list(operators), operators_of(result)
    if model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
        _assert_onnxruntime_agrees(model, result)
    return result


def _assert_onnxruntime_agrees(model: onnx.ModelProto, result: onnx.ModelProto) -> None:
    session = onnxruntime.InferenceSession(result.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = draw_inputs(model)
    for name, wanted in answers(model, batch).items():
        error = relative_error(session.run([name], batch)[0], wanted)
        assert error <= FLOAT_BOUND, f"{name} is off by {error} in onnxruntime"


def draw_inputs(model: onnx.ModelProto, rows: int = 2, seed: int = 1) -> dict[str, Array]:
    """Return normal values for the inputs of a model; a symbolic dimension becomes `rows`."""
    generator = np.random.default_rng(seed)
    constant = {tensor.name for tensor in model.graph.initializer}
    batch: dict[str, Array] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or rows for dim in kind.shape.dim]
        if value.name not in constant:
            batch[value.name] = generator.standard_normal(shape).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return batch


def operators_of(model: onnx.ModelProto) -> list[str]:
    """Return the operators of the graph but for constants, in order."""
    return [node.op_type for node in model.graph.node if node.op_type != "Constant"]


def answers(model: onnx.ModelProto, batch: dict[str, Array]) -> dict[str, Array]:
    """Return what the model answers in float64."""
    return Reference(ir.from_proto(model)).run(batch)


def _assert_same_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    for one, other in ((before.graph.input, after.graph.input), (before.graph.output, after.graph.output)):
        assert _named_types(one) == _named_types(other)


def _named_types(values: Sequence[onnx.ValueInfoProto]) -> list[tuple[str, int]]:
    return [(value.name, value.type.tensor_type.elem_type) for value in values]


def _assert_same_answers(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    kinds = {tensor.data_type for tensor in before.graph.initializer} | {onnx.TensorProto.FLOAT}
    bound = max(FLOORS.get(ir.DataType(kind), 0.0) for kind in kinds)
    batch = draw_inputs(before)
    wanted, got = answers(before, batch), answers(after, batch)
    for name, reference in wanted.items():
        error = relative_error(got[name], reference)
        assert error <= bound, f"{name} is off by {error}, allowed is {bound}"


def _unused(model: onnx.ModelProto) -> set[str]:
    return {str(value.name) for value in ir.from_proto(model).graph.initializers.values() if _idle(value)}


def _idle(value: ir.Value) -> bool:
    return not (value.uses() or value.is_graph_input() or value.is_graph_output())
