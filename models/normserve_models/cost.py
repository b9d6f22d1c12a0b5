"""What a fold costs and saves, and the folds that cost more than they save.

A batch norm reads and writes its tensor once. A fold that leaves an Add behind its layer (a bias map over zero padding, or the
bias of a MatMul) reads and writes the layer's result once, and reads the constant: that is worth it where the result is no
larger than what the batch norm went through, or so small that it stays in the cache next to the core. A weight that another
node shares has to be cloned: its bytes have to be made up for by what the batch norm moved, unless they are few.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from normserve_models.graph import OWN_DOMAINS
from normserve_models.legality import Reason, StaysError, dims, named, rank, shared
from normserve_models.report import Cost
from normserve_models.rules.elementwise import constant_operand
from normserve_models.weights import Quantized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normserve_models.affine import F64
    from normserve_models.constants import Constants
    from normserve_models.plan import Plan
    from normserve_models.steps import Edit
    from normserve_models.weights import Weight

FREE_PASS_BYTES = 1 << 16  # an Add on that much costs no more than the node that goes
FREE_CLONE_BYTES = 1 << 20


def elements(value: ir.Value | None) -> int | None:
    """Return how many elements a value has for one sample; None where an extent is not fixed."""
    shape = dims(value)
    sizes = [size for size in shape[1:] if isinstance(size, int)] if shape else []
    return prod(sizes) if shape and len(sizes) == len(shape) - 1 else None


def following_add(value: ir.Value, addend: F64, constants: Constants) -> int | None:
    """Return the index of the constant of the Add that alone reads `value`, where the constant can take `addend` in."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node, read = uses[0]
    if node.op_type != "Add" or node.domain not in OWN_DOMAINS or node.graph is not value.graph:
        return None
    try:
        constant = constant_operand(node, constants)
        own = None if constant is None else constants.require(node, constant)
    except StaysError:  # a caller may override it
        return None
    if constant is None or own is None or constant == read:
        return None
    known = rank(value)
    largest = max(own.ndim, addend.ndim)
    return constant if known is not None and known == rank(node.outputs[0]) and known >= largest else None


def of(plan: Plan, constants: Constants) -> Cost:
    """Return what a plan adds and saves."""
    added = [edit for edit in plan.edits if _adds_pass(edit, plan, constants)]
    gone = [_moved(node.outputs[0], constants, node) for node, _ in plan.dissolved]
    come = [_moved(edit.node.outputs[0], constants, edit.node, edit) for edit in added]
    known = None if None in (*gone, *come) else sum(filter(None, come)) - sum(filter(None, gone))
    weights = sum(_gained(edit) for edit in plan.edits) - sum(_own_bytes(node) for node, _ in plan.dissolved)
    return Cost(len(added) - len(plan.dissolved), weights, known)


def require_cheap(plan: Plan, read: ir.Value, constants: Constants) -> None:
    """Raise StaysError where a plan for the map that reads `read` costs more than it saves."""
    for edit in plan.edits:
        if edit.behind is not None and _adds_pass(edit, plan, constants):
            _require_no_larger(edit, edit.behind, read)
    clones = sum(_cloned_bytes(edit) for edit in plan.edits)
    saved = _moved(read, constants, plan.dissolved[0][0])
    if clones > FREE_CLONE_BYTES and saved is not None and clones > saved:
        raise StaysError(Reason.COST, f"shared weights of {clones} bytes would be cloned, to save {saved} bytes moved a sample")


def _require_no_larger(edit: Edit, behind: F64, read: ir.Value) -> None:
    ours, theirs = elements(edit.node.outputs[0]), elements(read)
    if behind.ndim == 1 or ours is None or theirs is None:  # a vector goes with as many places on both sides: channels count
        shape = dims(read) or []
        channels = shape[1] if len(shape) > 1 else None
        ours, theirs = max(behind.shape, default=0), channels if isinstance(channels, int) else None
    elif ours * edit.dtype.itemsize <= FREE_PASS_BYTES:
        return
    if theirs is not None and ours > theirs:
        raise StaysError(
            Reason.COST, f"behind {named(edit.node)} {ours} elements would have to be added to, instead of {theirs} scaled here"
        )


def _adds_pass(edit: Edit, plan: Plan, constants: Constants) -> bool:
    """Tell whether an edit leaves an Add that was not there before, or that the plan leaves out."""
    value = edit.node.outputs[0]
    if edit.behind is None:
        return False
    goes = {node for node, _ in plan.dissolved}
    return any(use.node in goes for use in value.uses()) or following_add(value, edit.behind, constants) is None


def _moved(value: ir.Value, constants: Constants, node: ir.Node, edit: Edit | None = None) -> int | None:
    """Return the bytes that an elementwise pass reads and writes for one sample."""
    size = elements(value)
    dtype = edit.dtype if edit is not None else value.dtype or constants.dtype(node.inputs[-1])
    if size is None or dtype is ir.DataType.UNDEFINED:
        return None
    addend = 0 if edit is None or edit.behind is None else edit.behind.size
    return int((2 * size + addend) * dtype.itemsize)


def _gained(edit: Edit) -> int:
    behind = 0 if edit.behind is None else edit.behind.size * edit.dtype.itemsize
    return int(behind + sum(_bytes(constant, edit) - _freed(edit.node, index) for index, constant in edit.constants.items()))


def _cloned_bytes(edit: Edit) -> int:
    return sum(int(_bytes(constant, edit)) for index, constant in edit.constants.items() if _shared(edit.node, index))


def _shared(node: ir.Node, index: int) -> bool:
    value = node.inputs[index] if index < len(node.inputs) else None
    return value is not None and shared(value)


def _bytes(constant: F64 | Weight, edit: Edit) -> float:
    if isinstance(constant, Quantized):
        return constant.integers.nbytes + constant.scale.size * edit.dtype.itemsize + constant.zero_point.nbytes
    values = constant if isinstance(constant, np.ndarray) else constant.values
    return float(values.size * edit.dtype.itemsize)


def _own_bytes(node: ir.Node) -> int:
    return sum(_freed(node, index) for index in range(len(node.inputs)))


def _freed(node: ir.Node, index: int) -> int:
    """Return the bytes of a constant that nobody else reads."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.is_graph_input() or shared(value):
        return 0
    return sum(int(tensor.nbytes) for tensor in _tensors(value))


def _tensors(value: ir.Value) -> Iterator[ir.TensorProtocol]:
    tensor = value.const_value if value.is_initializer() else ir.convenience.get_const_tensor(value)
    if tensor is not None:
        yield tensor
