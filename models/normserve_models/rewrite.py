"""Carrying out a plan on the graph: constants replaced, nodes left out, additions put behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from normserve_models import cost, graph, wiring
from normserve_models.constants import FLOATS, Constants, rounded
from normserve_models.graph import OWN_DOMAINS
from normserve_models.legality import StaysError
from normserve_models.steps import Edit
from normserve_models.weights import Dense, Quantized

if TYPE_CHECKING:
    from normserve_models.affine import F64
    from normserve_models.plan import Plan

SUFFIX = ".folded"
LAYERS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))


@dataclass
class Work:
    """What the folds of one model share.

    Attributes:
        constants: The constants as they are by now.
        names: Those that are taken.
        freed: Values that some node has used and does not any more.
        edited: The nodes that have taken something in.
        suffix: Of the names of new constants.
    """

    constants: Constants
    names: wiring.Names
    freed: list[ir.Value | None] = field(default_factory=list)
    edited: set[ir.Node] = field(default_factory=set)
    suffix: str = SUFFIX


def apply(plan: Plan, work: Work) -> None:
    """Carry out a plan.

    A value that holds something else from now on gets another name: whoever compares the files may take a name that both have
    for the same value.
    """
    for value in plan.moved:
        if not value.is_graph_output():
            value.name = work.names.fresh(f"{str(value.name).removesuffix(SUFFIX)}{SUFFIX}")
    for node, index in plan.dissolved:
        dissolve(node, index, work, renames=plan.renames)
    for edit in plan.edits:  # after that: what is put behind a node must not go into an Add that goes
        rewrite(edit, work)


def dissolve(node: ir.Node, index: int, work: Work, *, renames: bool) -> None:
    """Leave a node out: its input `index` takes its place, and its name where that is wanted."""
    work.freed.extend(node.inputs)
    value = node.inputs[index]
    assert value is not None  # noqa: S101 - a map has come from there or goes there
    wiring.dissolve(node, value, renames=renames)


def rewrite(edit: Edit, work: Work) -> None:
    """Give a node constants of its own: those that it had may be shared."""
    node = edit.node
    node.op_type = edit.op_type or node.op_type
    for attribute in edit.dropped:
        node.attributes.pop(attribute, None)
    node.resize_inputs(max(len(node.inputs), *[index + 1 for index in edit.constants], 0))
    for index, constant in edit.constants.items():
        old = node.inputs[index]
        name = _base_name(node, index, old, work.suffix)
        if isinstance(constant, Quantized):
            new = _dequantized(constant, node, name, edit.dtype, work)
        else:
            new = _constant(constant.values if isinstance(constant, Dense) else constant, node, name, edit.dtype, work)
        node.replace_input_with(index, new)
        work.freed.append(old)
    if edit.behind is not None:
        _add_behind(node, edit.behind, edit.dtype, work)
    work.edited.add(node)


def _base_name(node: ir.Node, index: int, old: ir.Value | None, suffix: str) -> str:
    if old is not None and old.is_initializer():
        return f"{str(old.name).removesuffix(suffix)}{suffix}"
    return f"{graph.label(node)}.{'weight' if index == 1 else 'bias'}{suffix}"


def _constant(array: F64, node: ir.Node, name: str, dtype: ir.DataType, work: Work) -> ir.Value:
    value = _initializer(np.ascontiguousarray(array), node, name, dtype, work)
    work.constants.exact[value] = array
    return value


def _initializer(array: np.ndarray[Any, Any], node: ir.Node, name: str, dtype: ir.DataType, work: Work) -> ir.Value:
    value = ir.Value(name=work.names.fresh(name), type=ir.TensorType(dtype), shape=ir.Shape(array.shape))
    value.const_value = ir.Tensor(array)  # float64 until the end, where the file has another float type
    assert node.graph is not None  # noqa: S101 - only nodes of a graph are rewritten
    node.graph.register_initializer(value)
    return value


def _dequantized(weight: Quantized, node: ir.Node, name: str, dtype: ir.DataType, work: Work) -> ir.Value:
    """Put a DequantizeLinear node of its own in front of `node`, with the integers of the weight where they still serve."""
    given = weight.node.inputs[0]
    known = work.constants.read(given)
    kept = known is not None and np.array_equal(known, weight.integers)
    kind = ir.DataType.from_numpy(weight.integers.dtype)
    integers = given if kept else _initializer(weight.integers, node, f"{name}.quantized", kind, work)
    scale = _constant(weight.scale, node, f"{name}.scale", dtype, work)
    zero_point = _initializer(weight.zero_point, node, f"{name}.zero_point", kind, work)
    attributes = {**weight.node.attributes, "axis": ir.AttrInt64("axis", weight.axis)}
    copy = ir.Node("", "DequantizeLinear", [integers, scale, zero_point], attributes.values(), name=work.names.fresh(name))
    copy.outputs[0].name = work.names.fresh(f"{name}.dequantized")
    copy.outputs[0].type, copy.outputs[0].shape = ir.TensorType(dtype), ir.Shape(weight.integers.shape)
    assert node.graph is not None  # noqa: S101 - only nodes of a graph are rewritten
    node.graph.insert_before(node, copy)
    return copy.outputs[0]


def _add_behind(node: ir.Node, addend: F64, dtype: ir.DataType, work: Work) -> None:
    """Add a constant to the first output of a node: in the Add that reads it, or in a new one."""
    value = node.outputs[0]
    index = cost.following_add(value, addend, work.constants)
    if index is not None:
        follower = next(iter(value.uses())).node
        old = follower.inputs[index]
        total = work.constants.require(follower, index) + addend
        name = _base_name(follower, index, old, work.suffix)
        follower.replace_input_with(index, _constant(total, follower, name, dtype, work))
        work.freed.append(old)
        return
    assert node.graph is not None  # noqa: S101 - only nodes of a graph are rewritten
    added = ir.Node("", "Add", [], name=work.names.fresh(f"{graph.label(node)}.shift"))
    result = added.outputs[0]
    value.replace_all_uses_with(result, replace_graph_outputs=True)
    result.name, result.shape, result.type = value.name, value.shape, value.type
    value.name = work.names.fresh(f"{value.name}.scaled")
    added.resize_inputs(2)
    added.replace_input_with(0, value)
    added.replace_input_with(1, _constant(addend, node, f"{graph.label(node)}.shift{SUFFIX}", dtype, work))
    node.graph.insert_after(node, added)


def compute_constants(model: ir.Model) -> None:
    """Do what `settle` does to a model that is not folded, in place."""
    work = Work(Constants(graph.opsets(model)), wiring.Names(model), suffix="")
    with np.errstate(all="ignore"):
        settle(model, work)
    wiring.sweep(work.freed)
    round_exact(work.constants.exact)


def settle(model: ir.Model, work: Work) -> None:
    """Give layers as initializers what is computed for them from constants alone: runtimes fuse no layer without.

    Exporters write a missing bias as an Expand of zeros that takes its type from the input.
    """
    for node in list(model.graph.all_nodes()):
        for index in (1, 2) if node.op_type in LAYERS and node.domain in OWN_DOMAINS else ():
            value = node.inputs[index] if index < len(node.inputs) else None
            producer = None if value is None else value.producer()
            if value is None or producer is None or producer.op_type in {"Constant", "DequantizeLinear"}:
                continue
            array = _known(value, work)
            if array is not None and work.constants.dtype(value) in FLOATS:
                rewrite(Edit(node, {index: array.astype(np.float64)}, work.constants.dtype(value)), work)


def _known(value: ir.Value, work: Work) -> np.ndarray[Any, Any] | None:
    try:
        return work.constants.read(value)
    except StaysError:  # made of what a caller may override
        return None


def round_exact(exact: dict[ir.Value, F64]) -> None:
    """Round every constant that a fold has made to the type of the file, once; memory is given back as this goes on."""
    while exact:
        value, array = exact.popitem()
        if value.is_initializer() and value.dtype is not None:
            value.const_value = ir.Tensor(rounded(array, value.dtype), name=value.name)
