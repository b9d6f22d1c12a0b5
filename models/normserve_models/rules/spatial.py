"""Rules of the operators that mix places and leave channels alone: pools, reductions, Pad and Resize."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normserve_models.affine import Affine, along, with_field
from normserve_models.constants import FLOATS
from normserve_models.legality import (
    Reason,
    StaysError,
    dims,
    named,
    require_field,
    require_not_negative,
    require_rank,
    require_uniform,
)
from normserve_models.rules.shape import source
from normserve_models.steps import Edit, Passed, Step, backward, forward

if TYPE_CHECKING:
    import onnx_ir as ir

    from normserve_models.affine import F64
    from normserve_models.constants import Constants

MAXIMA = ("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin")
MEANS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin")
REFLECTIONS = ("reflect", "edge", "wrap")
INTERPOLATIONS = ("nearest", "linear", "cubic", "bilinear")


@backward(*MAXIMA)
def maximum_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """max(s x + t) = s max(x) + t where s >= 0."""
    require_not_negative(node, affine)
    return Passed([(source(node), _at(affine, _axis_before(node, affine.axis, constants)))])


@forward(*MAXIMA)
def maximum_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """As backward."""
    _require_first(node, index)
    require_not_negative(node, affine)
    require_uniform(node, affine)
    return Passed([(node.outputs[0], _at(affine, _axis_after(node, affine.axis, constants)))])


@backward(*MEANS)
def mean_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """mean(s x + t) = s mean(x) + t, as long as no zeros are counted."""
    if _counts_zeros(node) and affine.shift.any():
        return _scale_only(node, affine)
    return Passed([(source(node), _at(affine, _axis_before(node, affine.axis, constants)))])


def _scale_only(node: ir.Node, affine: Affine) -> Step:
    """The shift does not reach the zeros that are counted, so it stays, in an Add behind the pool."""
    dtype = node.outputs[0].dtype
    if dtype not in FLOATS:
        raise StaysError(Reason.DTYPE, f"the type of the output of {named(node)} is not known")
    shift = along(affine.shift, require_rank(node, node.outputs[0]), affine.axis)
    _not_pooled(node, affine.axis)
    return Passed([(source(node), affine.without_shift())], edit=Edit(node, {}, dtype, behind=shift))


@forward(*MEANS)
def mean_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """As backward; where zeros are counted, or the shift is a field, the mean of the shift is a field."""
    _require_first(node, index)
    if affine.uniform and not (_counts_zeros(node) and affine.shift.any()):
        return Passed([(node.outputs[0], _at(affine, _axis_after(node, affine.axis, constants)))])
    if node.attributes.get_int("ceil_mode", 0):
        raise StaysError(Reason.BLOCKED, f"{named(node)} counts what is past the end, where its windows reach over")
    field = require_field(node, source(node), affine)
    fixed = [constants.read(value) for value in node.inputs[1:]]
    moved = constants.evaluate(node, [field, *fixed])
    return Passed([(node.outputs[0], with_field(affine.scale, moved, _axis_after(node, affine.axis, constants)))])


def _require_first(node: ir.Node, index: int) -> None:
    if index != 0:
        raise StaysError(Reason.BLOCKED, f"{named(node)} takes it as its input {index}")


def _at(affine: Affine, axis: int) -> Affine:
    return Affine(affine.scale, affine.shift, axis)


def _counts_zeros(node: ir.Node) -> bool:
    if node.op_type != "AveragePool" or not node.attributes.get_int("count_include_pad", 0):
        return False
    same = node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
    # With ceil_mode a window may reach over the end, and implementations differ in what they count there.
    return same or any(node.attributes.get_ints("pads", [])) or bool(node.attributes.get_int("ceil_mode", 0))


def _reduced(node: ir.Node, constants: Constants) -> tuple[set[int], int, bool]:
    """Return the axes that a reduction takes away, the rank of its input, and whether they stay with the extent 1."""
    rank = require_rank(node, node.inputs[0])
    axes = node.attributes.get_ints("axes", None)
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        given = constants.read(node.inputs[1])
        if given is None:
            raise StaysError(Reason.AXIS, f"the axes of {named(node)} are computed at run time")
        axes = given.reshape(-1).tolist()
    if not axes:
        axes = [] if node.attributes.get_int("noop_with_empty_axes", 0) else range(rank)
    return {axis % rank for axis in axes}, rank, bool(node.attributes.get_int("keepdims", 1))


def _kept(node: ir.Node, constants: Constants) -> list[int]:
    """Return for each axis of the result of a reduction the axis of the input that it was."""
    reduced, rank, keeps = _reduced(node, constants)
    return [axis for axis in range(rank) if keeps or axis not in reduced]


def _not_pooled(node: ir.Node, axis: int) -> int:
    if axis > 1:
        raise StaysError(Reason.AXIS, f"{named(node)} slides over axis {axis}, the channels")
    return axis


def _axis_before(node: ir.Node, axis: int, constants: Constants) -> int:
    if node.op_type not in REDUCTIONS:
        return _not_pooled(node, axis)
    before = _kept(node, constants)[axis]
    _require_not_reduced(node, before, constants)
    return before


def _axis_after(node: ir.Node, axis: int, constants: Constants) -> int:
    if node.op_type not in REDUCTIONS:
        return _not_pooled(node, axis)
    _require_not_reduced(node, axis, constants)
    return _kept(node, constants).index(axis)


def _require_not_reduced(node: ir.Node, axis: int, constants: Constants) -> None:
    if axis in _reduced(node, constants)[0]:
        raise StaysError(Reason.AXIS, f"{named(node)} mixes the channels, axis {axis}")


@backward("Pad")
def pad_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """A reflection takes no new values; a constant border v has to be s v + t of one number again."""
    widths = _widths(node, affine, constants)
    mode = node.attributes.get_string("mode", "constant")
    if mode in REFLECTIONS or not any(size > 0 for size in (*widths[0], *widths[1])):
        return Passed([(source(node), affine)])
    border = affine.scale * _border(node, constants) + affine.shift
    if mode != "constant" or (border != _border(node, constants)).any():
        raise StaysError(Reason.BLOCKED, f"{named(node)} pads with a constant, which no map per channel reaches")
    return Passed([(source(node), affine)])


@forward("Pad")
def pad_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """pad_v(s x + t) = s pad_v(x) + f with f = t inside and v - s v on the border; a reflection pads f like x."""
    _require_first(node, index)
    before, after = _widths(node, affine, constants)
    mode = node.attributes.get_string("mode", "constant")
    grows = any(size > 0 for size in (*before, *after))
    if affine.uniform and (mode in REFLECTIONS or not grows):
        return Passed([(node.outputs[0], affine)])
    if any(size < 0 for size in (*before, *after)) or mode not in {"constant", *REFLECTIONS}:
        raise StaysError(Reason.BLOCKED, f"{named(node)} comes after it")
    border = _border(node, constants) * (1.0 - affine.scale)
    if mode == "constant" and affine.uniform and (border == affine.shift).all():
        return Passed([(node.outputs[0], affine)])
    field = require_field(node, source(node), affine)
    padded = _padded_field(field, list(zip(before, after, strict=True)), mode, border, affine.axis)
    return Passed([(node.outputs[0], with_field(affine.scale, padded, affine.axis))])


def _padded_field(field: F64, widths: list[tuple[int, int]], mode: str, border: F64, axis: int) -> F64:
    if mode in REFLECTIONS:
        reflected: F64 = np.pad(field, widths, mode=mode)  # type: ignore[call-overload] # one of three
        return reflected
    inside = np.pad(np.ones_like(field, dtype=bool), widths)
    shape = [1] * field.ndim
    shape[axis] = len(border)
    return np.where(inside, np.pad(field, widths), border.reshape(shape))


def _widths(node: ir.Node, affine: Affine, constants: Constants) -> tuple[list[int], list[int]]:
    """Return by how much a Pad widens each axis at its begin and its end; negative where it cuts.

    Raises:
        StaysError: This is not fixed, or the channels or the batch are padded.
    """
    pads = _fixed(node, 1, "pads", constants)
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = list(range(len(pads) // 2))
    rank = len(axes)
    if given is not None:
        rank = require_rank(node, node.inputs[0])
        axes = [int(axis) % rank for axis in _fixed(node, 3, "axes", constants)]
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[place + len(axes)]
    if any(before[axis] or after[axis] for axis in (0, affine.axis)):
        raise StaysError(Reason.BLOCKED, f"{named(node)} pads the batch or the channels")
    return before, after


def _fixed(node: ir.Node, index: int, name: str, constants: Constants) -> list[int]:
    held = node.attributes.get_ints(name, None)
    if held is not None:
        return list(held)
    given = constants.read(node.inputs[index]) if index < len(node.inputs) else None
    if given is None:
        raise StaysError(Reason.DYNAMIC_PADDING, f"the {name} of {named(node)} are computed at run time")
    return [int(size) for size in given.reshape(-1)]


def _border(node: ir.Node, constants: Constants) -> float:
    if "value" in node.attributes:
        return node.attributes.get_float("value")
    value = constants.bias(node, 2)
    return float(value.reshape(-1)[0]) if value.size else 0.0


@backward("Resize", "Upsample")
def resize_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """Weights of an interpolation sum to 1."""
    _require_interpolation(node, affine, constants)
    return Passed([(source(node), affine)])


@forward("Resize", "Upsample")
def resize_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """As backward."""
    _require_first(node, index)
    require_uniform(node, affine)
    _require_interpolation(node, affine, constants)
    return Passed([(node.outputs[0], affine)])


def _require_interpolation(node: ir.Node, affine: Affine, constants: Constants) -> None:
    extrapolates = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if extrapolates or node.attributes.get_string("mode", "nearest") not in INTERPOLATIONS:
        raise StaysError(Reason.BLOCKED, f"{named(node)} interpolates with values of its own")
    shapes = [dims(value) for value in (node.inputs[0], node.outputs[0])]
    if any(shape is None or len(shape) <= affine.axis or shape[affine.axis] != affine.channels for shape in shapes):
        raise StaysError(Reason.AXIS, f"{named(node)} changes the channels, or its sizes are not known")
    factor = _factor(node, affine.axis, constants)
    if factor != 1.0:  # 1.1 times four channels are four again, and mixed
        raise StaysError(Reason.AXIS, f"{named(node)} resizes the channels by {factor}")


def _factor(node: ir.Node, axis: int, constants: Constants) -> float | None:
    """Return the scale of an axis; 1 where sizes are given instead, and None where it is computed at run time."""
    place = 2 if len(node.inputs) > 2 else 1
    given = node.inputs[place] if place < len(node.inputs) else None
    if given is None:
        return 1.0
    scales = constants.read(given)
    axes = node.attributes.get_ints("axes", None)
    if scales is None or scales.size == 0:
        return None if scales is None else 1.0
    listed = list(range(scales.size)) if axes is None else [at % len(dims(node.inputs[0]) or [1]) for at in axes]
    return float(scales.reshape(-1)[listed.index(axis)]) if axis in listed else 1.0
