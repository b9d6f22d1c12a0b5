"""Rules of the elementwise operators, the batch norm among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normserve_models import affine as algebra
from normserve_models.affine import Affine
from normserve_models.legality import Reason, StaysError, named, require_axis, require_rank
from normserve_models.steps import Absorbed, Edit, Passed, Step, backward, forward

if TYPE_CHECKING:
    import onnx_ir as ir

    from normserve_models.affine import F64
    from normserve_models.constants import Constants

DEFAULT_EPSILON = float(np.float32(1e-5))  # attributes are float32 in the file
ARITHMETIC = ("Add", "Sub", "Mul", "Div")
SUMS = ("Add", "Sum")


def constant_operand(node: ir.Node, constants: Constants) -> int | None:
    """Return the index of the input that is constant, where one of two is."""
    if len(node.inputs) != 2:
        return None
    return next((index for index in (1, 0) if constants.read(node.inputs[index]) is not None), None)


def of_constant(node: ir.Node, index: int, rank: int, axis: int, channels: int, constants: Constants) -> Affine:
    """Return the map of an Add, Sub, Mul or Div of one constant, its input `index`, with one value a channel.

    Args:
        node: The operator.
        index: Which input is the constant.
        rank: Of the other input and of the result.
        axis: The axis of channels.
        channels: How many there are.
        constants: Those of the model.

    Raises:
        StaysError: The constant is none of one value a channel, or the map is not affine (c / x).
    """
    values = np.broadcast_to(_per_channel(node, constants.require(node, index), rank, axis, channels), channels)
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type in SUMS:
        return Affine(one, values, axis)
    if node.op_type == "Sub":
        return Affine(one, -values, axis) if index == 1 else Affine(-one, values, axis)
    if node.op_type == "Div" and index == 0:
        raise StaysError(Reason.BLOCKED, f"{named(node)} divides by it")
    return Affine(values if node.op_type == "Mul" else one / values, zero, axis)


def _per_channel(node: ir.Node, array: F64, rank: int, axis: int, channels: int) -> F64:
    """Return the constant as one value a channel, [C] or [1]; broadcasting aligns its dimensions from the right."""
    shape = [1] * (rank - array.ndim) + list(array.shape)
    allowed = len(shape) == rank and all(size == 1 or (at == axis and size == channels) for at, size in enumerate(shape))
    if not allowed:
        raise StaysError(Reason.BLOCKED, f"{named(node)} has a constant of shape {list(array.shape)}, not one value a channel")
    return array.reshape(-1)


@backward(*ARITHMETIC, "Sum")
def arithmetic_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """S (c u) + t, s (u + c) + t, or the map to each term of a sum."""
    constant = constant_operand(node, constants)
    if constant is None:
        return _terms(node, affine)
    rank = require_rank(node, node.outputs[0])
    value = _same_rank(node, 1 - constant, rank)
    try:
        own = of_constant(node, constant, rank, affine.axis, affine.channels, constants)
    except StaysError:
        if node.op_type not in SUMS:
            raise
        return _shift_in_place(node, constant, rank, affine, constants)
    return Passed([(value, affine.after(own.scale, own.shift))], dissolves=1 - constant)


def _terms(node: ir.Node, affine: Affine) -> Step:
    if node.op_type in {"Mul", "Div"}:
        raise StaysError(Reason.BLOCKED, f"{named(node)} of two computed values comes before it")
    rank = require_rank(node, node.outputs[0])
    first, *others = [_same_rank(node, index, rank) for index in range(len(node.inputs))]
    scale_only = affine.without_shift()
    if node.op_type == "Sub":  # s (u - w) + t = (s u + t) - s w
        return Passed([(first, affine), (others[0], scale_only)])
    return Passed([(first, affine), *[(other, scale_only) for other in others]])


def _same_rank(node: ir.Node, index: int, rank: int) -> ir.Value:
    value = node.inputs[index]
    require_rank(node, value, rank)
    assert value is not None  # noqa: S101 - require_rank has looked
    return value


def _shift_in_place(node: ir.Node, constant: int, rank: int, affine: Affine, constants: Constants) -> Step:
    """S (u + c) + t = s u + (s c + t), which stays in the Add: c may differ from place to place."""
    scale, shift = affine.along(rank)
    array = constants.require(node, constant)
    changed = Edit(node, {constant: scale * array + shift}, constants.dtype(node.inputs[constant]))
    return Passed([(_same_rank(node, 1 - constant, rank), affine.without_shift())], edit=changed)


@forward(*ARITHMETIC)
def arithmetic_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """C (s x + t), or (s x + t) + c."""
    constant = constant_operand(node, constants)
    if constant is None or constant == index:
        raise StaysError(Reason.BLOCKED, f"{named(node)} of two computed values comes after it")
    rank = require_rank(node, node.outputs[0])
    require_rank(node, node.inputs[index], rank)
    own = of_constant(node, constant, rank, affine.axis, affine.channels, constants)
    return Passed([(node.outputs[0], affine.before(own.scale, own.shift))], dissolves=index)


@backward("BatchNormalization")
def batch_norm_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """(s a) u + (s b + t); the batch norm itself can take the map where nothing above does."""
    own = _fixed(node, constants, "before")
    require_axis(node, affine.axis, own.axis, affine.channels, own.channels)
    value = node.inputs[0]
    assert value is not None  # noqa: S101 - the first input of a batch norm is not optional
    gamma = affine.scale * constants.require(node, 1)
    beta = affine.after(1.0, constants.require(node, 2)).shift
    rest = Edit(node, {1: gamma, 2: beta}, constants.dtype(node.inputs[1]))
    return Passed([(value, affine.after(own.scale, own.shift))], dissolves=0, rest=rest)


@forward("BatchNormalization")
def batch_norm_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """A (s x + t) + b: gamma' = s gamma, and beta' takes what the shift adds."""
    own = _fixed(node, constants, "after")
    if index != 0 or not affine.uniform:
        raise StaysError(Reason.BLOCKED, f"{named(node)} comes after it")
    require_axis(node, affine.axis, own.axis, affine.channels, own.channels)
    gamma, mean = constants.require(node, 1), constants.require(node, 3)
    # With x' = s x + t the node gives a (x' - mean) + beta, and with gamma' = s gamma it gives s a (x - mean) + beta'.
    beta = constants.require(node, 2) + own.scale * (affine.shift - mean + affine.scale * mean)
    return Absorbed(Edit(node, {1: affine.scale * gamma, 2: beta}, constants.dtype(node.inputs[1])))


def _fixed(node: ir.Node, constants: Constants, where: str) -> Affine:
    try:
        return batch_norm(node, constants)
    except StaysError as stays:
        raise StaysError(Reason.BLOCKED, f"{named(node)} comes {where} it, which stays: {stays}") from stays


def batch_norm(node: ir.Node, constants: Constants) -> Affine:
    """Return the map of a BatchNormalization node, on axis 1.

    Raises:
        StaysError: It is no fixed map: training mode, several outputs, parameters that are not constant or not finite.
    """
    if node.attributes.get_int("training_mode", 0) or any(value.name for value in node.outputs[1:]):
        raise StaysError(Reason.TRAINING_MODE, f"{named(node)} computes statistics")
    gamma, beta, mean, variance = (constants.require(node, index, Reason.BATCH_STATISTICS) for index in range(1, 5))
    epsilon = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    try:
        return algebra.of_batch_norm(gamma, beta, mean, variance, epsilon)
    except algebra.BadStatisticsError as error:
        raise StaysError(Reason.BAD_STATISTICS, f"{named(node)}: {error}") from error
