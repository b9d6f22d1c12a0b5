"""Fold the batch norms of an ONNX graph into the weights beside them.

Each batch norm is taken as an affine map and carried backward from operator to operator, by the rules of rules.py,
until one takes it in. The way is planned first and nothing is touched before the whole plan is known to be legal. The
batch norms are visited from the end of the graph, so that several in a row go as one map, and the new constants stay in
float64 until all is done: each is rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from normserve_models import graph, rules
from normserve_models.constants import Constants, fits, rounded
from normserve_models.legality import Reason, StaysError, named, require_sole_use
from normserve_models.report import Norm

if TYPE_CHECKING:
    from normserve_models.affine import F64, Affine
    from normserve_models.rules import Edit

SUFFIX = ".folded"
OLDEST_OPSET = 9


@dataclass
class Plan:
    """What carries a map to its end.

    Attributes:
        edits: The constants that change.
        dissolved: The nodes that are left out, each with the input that takes its place, from the last to the first.
    """

    edits: list[Edit] = field(default_factory=list)
    dissolved: list[tuple[ir.Node, ir.Value]] = field(default_factory=list)

    def cut(self, edits: int, dissolved: int, last: Edit) -> None:
        """Keep the first steps only, and end in `last`."""
        self.edits[edits:] = [last]
        del self.dissolved[dissolved:]


@dataclass
class Work:
    """What the folds of one model share.

    Attributes:
        constants: The constants as they are by now.
        names: Those that are taken.
        freed: Values that some node has used and does not any more.
    """

    constants: Constants
    names: graph.Names
    freed: list[ir.Value | None] = field(default_factory=list)


def fold(model: ir.Model) -> list[Norm]:
    """Fold what can be folded exactly, in place.

    Args:
        model: The model, its nodes in topological order.

    Returns:
        What became of each batch norm, in the order of the graph.
    """
    norms = graph.batch_norms(model)
    if not norms:
        return []
    graph.infer_shapes(model)
    work = Work(Constants(graph.opsets(model)), graph.Names(model))
    fates: dict[ir.Node, Norm] = {}
    with np.errstate(all="ignore"):  # what is not finite is a reason to stay, not a warning
        for node in reversed(norms):
            if node not in fates:
                fates |= _fold_one(model, node, work)
    graph.sweep(work.freed)
    _round(work.constants)
    return [fates[node] for node in norms]


def _fold_one(model: ir.Model, node: ir.Node, work: Work) -> dict[ir.Node, Norm]:
    """Fold one batch norm, and with it those that its map has met on its way; return what became of each."""
    try:
        _require_foldable(model, node)
        plan = _plan(node, work.constants)
        _require_finite(plan)
    except StaysError as stays:
        return {node: _norm(node, folded=False, reason=stays.reason.value, detail=stays.detail)}
    into = [graph.label(edit.node) for edit in plan.edits]
    gone = [dissolved for dissolved, _ in plan.dissolved if dissolved.op_type == graph.BATCH_NORM]
    fates = {dissolved: _norm(dissolved, folded=True, into=into) for dissolved in gone}
    _apply(plan, work)
    return fates


def _norm(node: ir.Node, **fate: Any) -> Norm:
    scale = node.inputs[1] if len(node.inputs) > 1 else None
    return Norm(graph.label(node), "" if scale is None else str(scale.name), **fate)


def _require_foldable(model: ir.Model, node: ir.Node) -> None:
    opset = graph.opsets(model).get("", OLDEST_OPSET)
    if opset < OLDEST_OPSET:
        raise StaysError(Reason.OPSET, f"the file is of opset {opset}")
    if node.graph is not model.graph:
        raise StaysError(Reason.BODY, f"{named(node)} is not in the main graph")


def _plan(node: ir.Node, constants: Constants) -> Plan:
    own = rules.batch_norm(node, constants)
    value = node.inputs[0]
    assert value is not None  # noqa: S101 - the first input of a batch norm is not optional
    plan = Plan(dissolved=[(node, value)])
    _carry(value, own, constants, plan)
    return plan


def _carry(value: ir.Value, affine: Affine, constants: Constants, plan: Plan) -> None:
    """Carry a map backward from `value` until operators have taken it in whole, noting the way in `plan`.

    Raises:
        StaysError: Something does not let it through, and there was no place to rest before.
    """
    rested: tuple[int, int, Edit] | None = None  # how much was planned before the place of rest, and what stays there
    while True:
        try:
            step = _step(value, affine, constants, plan)
        except StaysError:
            if rested is None:
                raise
            plan.cut(*rested)
            return
        if isinstance(step, rules.Absorbed):
            plan.edits.append(step.edit)
            return
        if step.rest is not None:
            rested = len(plan.edits), len(plan.dissolved), step.rest
        (below, affine) = step.branches[0]
        if step.dissolves:
            plan.dissolved.append((_producer(value), below))
        value = below


def _step(value: ir.Value, affine: Affine, constants: Constants, plan: Plan) -> rules.Step:
    """Ask the rule, and carry all branches but the first one to their ends."""
    require_sole_use(value)
    step = rules.step_back(value, affine, constants)
    if isinstance(step, rules.Passed):
        for branch, moved in step.branches[1:]:
            _carry(branch, moved, constants, plan)
    return step


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None  # noqa: S101 - a rule has been asked for it
    return node


def _require_finite(plan: Plan) -> None:
    for edit in plan.edits:
        for index, array in edit.constants.items():
            if not fits(array, edit.dtype):
                raise StaysError(Reason.OVERFLOW, f"input {index} of {named(edit.node)} overflows {edit.dtype.name}")


def _apply(plan: Plan, work: Work) -> None:
    for edit in plan.edits:
        _rewrite(edit, work)
    for node, below in plan.dissolved:
        work.freed.extend(node.inputs)
        graph.dissolve(node, below)


def _rewrite(edit: Edit, work: Work) -> None:
    """Give a node constants of its own: those that it had may be shared."""
    node = edit.node
    node.op_type = edit.op_type or node.op_type
    for attribute in edit.dropped:
        node.attributes.pop(attribute, None)
    node.resize_inputs(max(len(node.inputs), *[index + 1 for index in edit.constants]))
    for index, array in edit.constants.items():
        old = node.inputs[index]
        value = _constant(work.names.fresh(_base_name(node, index, old)), array, edit.dtype)
        assert node.graph is not None  # noqa: S101 - only nodes of a graph are rewritten
        node.graph.register_initializer(value)
        node.replace_input_with(index, value)
        work.constants.exact[value] = array
        work.freed.append(old)


def _base_name(node: ir.Node, index: int, old: ir.Value | None) -> str:
    if old is not None and old.is_initializer():
        return f"{str(old.name).removesuffix(SUFFIX)}{SUFFIX}"
    return f"{graph.label(node)}.{'weight' if index == 1 else 'bias'}{SUFFIX}"


def _constant(name: str, array: F64, dtype: ir.DataType) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape))
    value.const_value = ir.Tensor(array)  # float64 until the end
    return value


def _round(constants: Constants) -> None:
    while constants.exact:
        value, array = constants.exact.popitem()
        if value.is_initializer() and value.dtype is not None:
            value.const_value = ir.Tensor(rounded(array, value.dtype), name=value.name)
