"""What every fold has to respect whatever the operator, and the codes that say why a batch norm stayed.

A map may leave a value only where nobody else sees that value: it has one consumer and is no output of the graph. A
parameter may be changed only where its value is fixed: a caller must not be able to override it. What is legal for one
operator only stands beside its rule, in rules.py.
"""

from __future__ import annotations

import itertools
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from normserve_models.graph import OWN_DOMAINS

if TYPE_CHECKING:
    import onnx_ir as ir

    from normserve_models.affine import F64, Affine


MOST_NAMED = 4  # consumers in a message


class Reason(StrEnum):
    """Why a batch norm stays."""

    explanation: str

    def __new__(cls, code: str, explanation: str) -> Reason:
        """Make a member from its code, which the report holds, and its meaning in one sentence."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.explanation = explanation
        return member

    TRAINING_MODE = "training_mode", "it runs in training mode, or gives statistics beside its result"
    BATCH_STATISTICS = "batch_statistics", "its parameters are computed at run time, from the batch itself"
    OVERRIDABLE = "overridable", "a parameter is a graph input with a default, which a caller may override"
    GRAPH_OUTPUT = "graph_output", "the value that would be scaled is an output of the graph"
    SEVERAL_CONSUMERS = "several_consumers", "another node needs the value that would be scaled, as it is"
    BLOCKED = "blocked", "the operator beside it lets no affine map through and cannot take one in"
    AXIS = "axis", "its channels are not the axis that the weights beside it can scale"
    BAD_STATISTICS = "bad_statistics", "a parameter is not finite, or a variance is negative"
    OVERFLOW = "overflow", "the folded weights would not be finite in the type of the file"
    DYNAMIC_PADDING = "dynamic_padding", "zero padding around a spatial size that is not known"
    DTYPE = "dtype", "the types of the weights beside it do not allow the fold"
    OPSET = "opset", "the file is older than opset 9, in which a batch norm had other attributes"
    COST = "cost", "the constants or the pass over memory that it would leave cost more than it does"


class StaysError(Exception):
    """A batch norm cannot be folded; `reason` and `detail` say why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def named(node: ir.Node) -> str:
    """Return the operator and the name of a node, or of its first output where it has no name."""
    return f"{node.op_type} {node.name or node.outputs[0].name!r}"


def require_sole_use(value: ir.Value, *, of_body: bool = False) -> None:
    """Raise StaysError where more than one node sees what is in the value, or a caller does.

    Args:
        value: The value.
        of_body: It is the result of a body, and the node that the body belongs to has been asked: then nobody else may.
    """
    if of_body and (value.uses() or not value.is_graph_output()):
        raise StaysError(Reason.SEVERAL_CONSUMERS, f"{value.name!r} is the result of a body, and more")
    if value.is_graph_output() and not of_body:
        raise StaysError(Reason.GRAPH_OUTPUT, f"{value.name!r} is an output of the graph")
    users = readers(value)
    if len(users) > 1:
        others = ", ".join(sorted(named(node) for node, _ in users[:MOST_NAMED])) + " ..." * (len(users) > MOST_NAMED)
        raise StaysError(Reason.SEVERAL_CONSUMERS, f"{value.name!r} goes to {others}")


def readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Return the nodes that read what is in a value, each with the index of its input."""
    return [(use.node, use.idx) for use in value.uses() if not _reads_outside_only(use.node, use.idx)]


def shared(value: ir.Value) -> bool:
    """Tell whether more than one node reads what is in a value; of thousands only two are looked at."""
    found = (use for use in value.uses() if not _reads_outside_only(use.node, use.idx))
    return next(itertools.islice(found, 1, None), None) is not None


def _reads_outside_only(node: ir.Node, index: int) -> bool:
    """Tell whether a use reads only the shape or the type, which no fold changes; exporters like to write those."""
    shape_only = node.op_type in {"Shape", "Size"} or (node.op_type == "CastLike" and index == 1)
    return shape_only and node.domain in OWN_DOMAINS


def require_axis(node: ir.Node, axis: int, wanted: int, channels: int, available: int) -> None:
    """Raise StaysError where the map does not act on the axis, or not on the channels, that `node` can scale."""
    if axis != wanted or channels != available:
        raise StaysError(
            Reason.AXIS, f"{named(node)} scales {available} channels on axis {wanted}, wanted {channels} on axis {axis}"
        )


def require_uniform(node: ir.Node, affine: Affine) -> None:
    """Raise StaysError where the shift differs from place to place and `node` takes only one value a channel."""
    if not affine.uniform:
        raise StaysError(Reason.BLOCKED, f"{named(node)} comes after a zero-padded border, where the shift is another one")


def require_not_negative(node: ir.Node, affine: Affine) -> None:
    """Raise StaysError where a scale is negative: max(s x + t) is s max(x) + t for s >= 0 only."""
    negative = np.flatnonzero(affine.scale < 0)
    if len(negative):
        channel = int(negative[0])
        raise StaysError(
            Reason.BLOCKED, f"{named(node)} lets no negative scale through, channel {channel} has {affine.scale[channel]:.3g}"
        )


def rank(value: ir.Value | None) -> int | None:
    """Return the rank of a value where it is known."""
    return None if value is None or value.shape is None else value.shape.rank()


def require_rank(node: ir.Node, value: ir.Value | None, wanted: int | None = None) -> int:
    """Return the rank of `value`; raise StaysError where it is not known, or not the one that is wanted."""
    found = rank(value)
    if found is None:
        raise StaysError(Reason.AXIS, f"the rank of an input or output of {named(node)} is not known")
    if wanted is not None and found != wanted:
        raise StaysError(Reason.AXIS, f"{named(node)} works on rank {found}, wanted {wanted}")
    return found


def dims(value: ir.Value | None) -> list[int | str | None] | None:
    """Return the shape of a value: an int where an extent is fixed, its symbol or None where it is not."""
    if value is None or value.shape is None:
        return None
    return [size if isinstance(size, int) else size.value for size in value.shape]


def require_sample_shape(node: ir.Node, value: ir.Value | None) -> list[int]:
    """Return the shape of `value` with 1 for its first extent; raise StaysError where another extent is not fixed."""
    shape = dims(value)
    if shape is None or any(not isinstance(size, int) for size in shape[1:]):
        raise StaysError(Reason.DYNAMIC_PADDING, f"{named(node)} pads a tensor of shape {shown(shape)}")
    return [1, *[int(size) for size in shape[1:] if size is not None]]


def require_field(node: ir.Node, value: ir.Value | None, affine: Affine) -> F64:
    """Return the shift of a map on `value` in full, [1, ...]; raise StaysError where its size or its batch cannot be told."""
    shape = require_sample_shape(node, value)
    if affine.axis == 0 or (not affine.uniform and affine.shift.ndim != len(shape)):
        raise StaysError(Reason.AXIS, f"the first axis before {named(node)} is no batch")
    return affine.field(shape)


def shown(shape: list[int | str | None] | None) -> str:
    """Return a shape for people."""
    return "that is not known" if shape is None else "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
