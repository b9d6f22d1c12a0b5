"""Rules of the operators that move values and leave them as they are."""

from __future__ import annotations

import itertools
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from normserve_models.affine import Affine
from normserve_models.legality import Reason, StaysError, dims, named, require_axis, require_rank, shown
from normserve_models.steps import Passed, Step, backward, forward

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from normserve_models.affine import F64
    from normserve_models.constants import Constants

Dims = list[int | str | None]


def source(node: ir.Node) -> ir.Value:
    """Return the first input, which no operator here can lack."""
    value = node.inputs[0]
    if value is None:
        raise StaysError(Reason.BLOCKED, f"{named(node)} has no input")
    return value


@backward("Identity", "Dropout")
def same_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """Nothing happens to the values."""
    _require_inference(node, constants)
    return Passed([(source(node), affine)])


@forward("Identity", "Dropout")
def same_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """Nothing happens to the values."""
    _require_inference(node, constants)
    return Passed([(node.outputs[0], affine)])


def _require_inference(node: ir.Node, constants: Constants) -> None:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None:
        return
    known = constants.read(training)
    if known is None or known.any():
        raise StaysError(Reason.BLOCKED, f"{named(node)} drops values")


@backward("Transpose")
def transpose_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """The axis goes to where it came from."""
    order = _permutation(node)
    return Passed([(source(node), Affine(affine.scale, affine.shift, order[affine.axis]))])


@forward("Transpose")
def transpose_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """The axis moves, and a field is transposed as the values are."""
    order = _permutation(node)
    if not affine.uniform and order[0] != 0:
        raise StaysError(Reason.AXIS, f"{named(node)} moves the batch")
    shift = affine.shift if affine.uniform else np.transpose(affine.shift, order)
    return Passed([(node.outputs[0], Affine(affine.scale, shift, order.index(affine.axis)))])


def _permutation(node: ir.Node) -> list[int]:
    order = node.attributes.get_ints("perm", None)
    return list(reversed(range(require_rank(node, node.outputs[0])))) if order is None else list(order)


@backward("If")
def if_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """Whichever branch is taken, its result goes through the map."""
    results = [attribute.as_graph().outputs[0] for attribute in node.attributes.values()]
    return Passed([(result, affine) for result in results], of_bodies=True)


REGROUPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@backward(*REGROUPING)
def regroup_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """The axis of channels stays one, or becomes part of one that holds it several times over."""
    return Passed([(source(node), _regrouped(node, affine, node.outputs[0], source(node)))])


@forward(*REGROUPING)
def regroup_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """As backward; a field takes the new shape, and is one value a channel where all but the batch has become one axis."""
    if index != 0:
        raise StaysError(Reason.BLOCKED, f"{named(node)} takes it as its input {index}")
    moved = _regrouped(node, affine, source(node), node.outputs[0])
    return Passed([(node.outputs[0], moved)])


def _regrouped(node: ir.Node, affine: Affine, old: ir.Value, new: ir.Value) -> Affine:
    before, after = dims(old), dims(new)
    if before is None or after is None:
        raise StaysError(Reason.AXIS, f"the shapes around {named(node)} are not known")
    found = follow(affine.axis, affine.channels, before, after)
    if found is None:
        raise StaysError(
            Reason.AXIS, f"{named(node)} makes {shown(after)} of {shown(before)}, and axis {affine.axis} gets lost"
        )
    axis, outer, inner = found
    scale = np.tile(np.repeat(affine.scale, inner), outer)
    if affine.uniform:
        return Affine(scale, np.tile(np.repeat(affine.shift, inner), outer), axis)
    return Affine(scale, _reshaped_field(node, affine.shift, before, after), axis)


def _reshaped_field(node: ir.Node, field: F64, before: Dims, after: Dims) -> F64:
    sizes = [size for size in after[1:] if isinstance(size, int)]
    if (
        len(sizes) < len(after) - 1
        or prod(sizes) != prod(field.shape[1:])
        or not all(isinstance(size, int) for size in before[1:])
    ):
        raise StaysError(Reason.DYNAMIC_PADDING, f"{named(node)} reshapes a zero-padded border of unknown size")
    shape = [1, *before[1:]]
    full = np.broadcast_to(field, [int(size) for size in shape if size is not None])
    return full.reshape(-1) if len(sizes) == 1 else full.reshape(1, *sizes)


def follow(axis: int, channels: int, before: Dims, after: Dims) -> tuple[int, int, int] | None:
    """Tell where the channels of `axis` are after a reshape.

    Args:
        axis: An axis of `before`.
        channels: Its extent.
        before: A shape; extents that are not fixed are symbols or None.
        after: The other shape of as many elements.

    Returns:
        (axis, outer, inner): the new axis runs through `outer` x `channels` x `inner` elements in this order. None where the
        channels lie on several axes now, or this cannot be told.
    """
    head = _common(before, after)
    if axis < head:
        return axis, 1, 1
    tail = _common(before[head:][::-1], after[head:][::-1], leading=False)
    if axis >= len(before) - tail:
        return axis - len(before) + len(after), 1, 1
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    if not all(isinstance(size, int) for size in (*old, *new)):
        return None
    found = _inside(axis - head, channels, [int(str(size)) for size in old], [int(str(size)) for size in new])
    return None if found is None else (found[0] + head, *found[1:])


def _common(before: Dims, after: Dims, *, leading: bool = True) -> int:
    count = 0
    for one, other in zip(before, after, strict=False):
        if one is None or one != other:
            break
        count += 1
    if count == 0 and leading and before and after and _same_batch(before, after):
        return 1 + _common(before[1:], after[1:], leading=False)
    return count


def _same_batch(before: Dims, after: Dims) -> bool:
    """Tell whether two first extents that are not fixed are equal, because all others are fixed and hold as many elements."""
    rests = before[1:], after[1:]
    if isinstance(before[0], int) or isinstance(after[0], int) or not all(isinstance(x, int) for rest in rests for x in rest):
        return False
    return prod(map(int, before[1:])) == prod(map(int, after[1:]))  # type: ignore[arg-type] # all are int


def _inside(axis: int, channels: int, old: Sequence[int], new: Sequence[int]) -> tuple[int, int, int] | None:
    outer, inner = prod(old[:axis]), prod(old[axis + 1 :])
    for place, size in enumerate(new):
        after = prod(new[place + 1 :])
        if not after or inner % after:
            continue
        repeats = inner // after
        if size % (channels * repeats) == 0 and prod(new[:place]) * (size // (channels * repeats)) == outer:
            return place, size // (channels * repeats), repeats
    return None


@backward("Concat")
def concat_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """Each input takes its slice of the map, or the whole map where they are joined along another axis."""
    values = [value for value in node.inputs if value is not None]
    if node.attributes.get_int("axis") % require_rank(node, node.outputs[0]) != affine.axis:
        return Passed([(value, affine) for value in values])
    parts = _parts(node, affine.axis)
    require_axis(node, affine.axis, affine.axis, affine.channels, sum(parts))
    bounds = np.cumsum([0, *parts])
    slices = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
    maps = [Affine(affine.scale[part], affine.shift[part], affine.axis) for part in slices]
    return Passed(list(zip(values, maps, strict=True)))


@forward("Concat")
def concat_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """The other inputs get scale 1 and shift 0."""
    parts = _parts(node, affine.axis)
    require_axis(node, affine.axis, affine.axis, affine.channels, parts[index])
    before, after = sum(parts[:index]), sum(parts[index + 1 :])
    scale = np.pad(affine.scale, (before, after), constant_values=1.0)
    if affine.uniform:
        return Passed([(node.outputs[0], Affine(scale, np.pad(affine.shift, (before, after)), affine.axis))])
    widths = [(before, after) if at == affine.axis else (0, 0) for at in range(affine.shift.ndim)]
    full = list(affine.shift.shape)
    full[affine.axis] = affine.channels
    return Passed([(node.outputs[0], Affine(scale, np.pad(np.broadcast_to(affine.shift, full), widths), affine.axis))])


def _parts(node: ir.Node, axis: int) -> list[int]:
    """Return how many channels each input of a Concat has."""
    rank = require_rank(node, node.outputs[0])
    joined = node.attributes.get_int("axis") % rank
    shapes = [dims(value) for value in node.inputs]
    sizes = [shape[axis] for shape in shapes if shape is not None and len(shape) == rank and isinstance(shape[axis], int)]
    if joined != axis or len(sizes) < len(shapes):
        raise StaysError(Reason.AXIS, f"{named(node)} joins axis {joined}, wanted {axis} and inputs of known sizes")
    return [int(str(size)) for size in sizes]
