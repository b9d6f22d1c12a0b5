"""Rules of the layers that take a map into their weights: Conv, ConvTranspose, Gemm and MatMul."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from normserve_models import kernels, weights
from normserve_models.affine import along
from normserve_models.legality import (
    Reason,
    StaysError,
    named,
    require_axis,
    require_field,
    require_rank,
    require_sample_shape,
    require_uniform,
)
from normserve_models.steps import Absorbed, Edit, Step, backward, forward

if TYPE_CHECKING:
    from normserve_models.affine import F64, Affine
    from normserve_models.constants import Constants

PADDED = ("SAME_UPPER", "SAME_LOWER")


@backward("Conv")
def conv_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """W'_k = s_k W_k, b'_k = s_k b_k + t_k."""
    weight = weights.read(node, 1, constants)
    shape = weight.values.shape
    require_axis(node, affine.axis, 1, affine.channels, shape[0])
    scale, _ = affine.along(len(shape), axis=0)
    shift = affine.after(1.0, constants.bias(node, 2)).shift
    return Absorbed(Edit(node, {1: weight.scaled(scale), 2: shift}, _float_type(node, constants)))


@forward("Conv")
def conv_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """W'_:k = s_k W_:k, and what the convolution makes of the shift."""
    weight = _right_operand(node, index, constants)
    values = weight.values
    groups = node.attributes.get_int("group", 1)
    require_axis(node, affine.axis, 1, affine.channels, values.shape[1] * groups)
    scale, shift = (_per_row(each, groups, values) if each.ndim == 1 else each for each in (affine.scale, affine.shift))
    if not affine.uniform:
        made = kernels.conv(node, [require_field(node, node.inputs[0], affine), values, None])
    elif _padded(node) and affine.shift.any():
        ones = np.ones((1, 1, *require_sample_shape(node, node.inputs[0])[2:]))
        made = kernels.conv(_ungrouped(node), [ones, (values * shift).sum(axis=1, keepdims=True), None])
    else:
        made = (values * shift).sum(axis=tuple(range(1, values.ndim)))
    return Absorbed(_filters(node, weight.scaled(scale), made, constants))


def _per_row(each: F64, groups: int, values: F64) -> F64:
    """Return what multiplies W [M, C/groups, ...]: each row sees the channels of its own group only."""
    rows = values.shape[0] // groups
    grouped = np.repeat(each.reshape(groups, -1), rows, axis=0) if groups > 1 else each.reshape(1, -1)
    return grouped.reshape(*grouped.shape, *[1] * (values.ndim - 2))


def _padded(node: ir.Node) -> bool:
    return node.attributes.get_string("auto_pad", "NOTSET") in PADDED or any(node.attributes.get_ints("pads", []))


def _ungrouped(node: ir.Node) -> ir.Node:
    """Return a node of no graph with the window of `node`, for one input channel."""
    return ir.Node("", node.op_type, [], [attribute for name, attribute in node.attributes.items() if name != "group"])


def _filters(node: ir.Node, weight: weights.Weight, made: F64, constants: Constants) -> Edit:
    """Return the edit of a convolution for a new weight and the constant [M] or [1, M, ...] that its result gains."""
    dtype = _float_type(node, constants)
    made = _one_a_channel(made)
    if made.ndim > 1:
        return Edit(node, {1: weight}, dtype, behind=made)
    return Edit(node, {1: weight, 2: made + constants.bias(node, 2)}, dtype)


def _one_a_channel(made: F64) -> F64:
    """Return a constant [1, M, ...] as [M] where it is the same everywhere."""
    if made.ndim == 1:
        return made
    flat = made.reshape(made.shape[1], -1)
    return flat[:, 0] if flat.size and (flat == flat[:, :1]).all() else made


@backward("ConvTranspose")
def conv_transpose_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """As Conv, on the columns of each group: W is [C, M/groups, ...]."""
    weight = weights.read(node, 1, constants)
    shape = weight.values.shape
    groups = node.attributes.get_int("group", 1)
    require_axis(node, affine.axis, 1, affine.channels, shape[1] * groups)
    scale = np.repeat(affine.scale.reshape(groups, shape[1]), shape[0] // groups, axis=0) if groups > 1 else affine.scale
    factors = scale.reshape(-1, shape[1], *[1] * (len(shape) - 2))
    shift = affine.after(1.0, constants.bias(node, 2)).shift
    return Absorbed(Edit(node, {1: weight.scaled(factors), 2: shift}, _float_type(node, constants)))


@forward("ConvTranspose")
def conv_transpose_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """W'_k = s_k W_k. Even a uniform shift becomes a map: places differ in how many taps reach them."""
    weight = _right_operand(node, index, constants)
    values = weight.values
    require_axis(node, affine.axis, 1, affine.channels, values.shape[0])
    made = np.zeros(values.shape[1] * node.attributes.get_int("group", 1))
    if affine.shift.any():
        field = require_field(node, node.inputs[0], affine)
        made = constants.evaluate(node, [field, values])
    return Absorbed(_filters(node, weight.scaled(along(affine.scale, values.ndim, 0)), made, constants))


@backward("Gemm")
def gemm_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """B'_:k = s_k B_:k, C' = s (beta C) + t, beta' = 1."""
    weight = weights.read(node, 1, constants)
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    require_axis(node, affine.axis, 1, affine.channels, weight.values.shape[axis])
    bias = affine.scale * _gemm_bias(node, constants) + affine.shift
    replaced = {1: weight.scaled(along(affine.scale, 2, axis)), 2: bias}
    return Absorbed(Edit(node, replaced, _float_type(node, constants), dropped=("beta",)))


@forward("Gemm")
def gemm_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """B'_k: = s_k B_k:, C' = beta C + alpha t B, beta' = 1."""
    weight = _right_operand(node, index, constants)
    require_uniform(node, affine)
    axis = 1 if node.attributes.get_int("transB", 0) else 0
    own = 0 if node.attributes.get_int("transA", 0) else 1
    require_axis(node, affine.axis, own, affine.channels, weight.values.shape[axis])
    gained = node.attributes.get_float("alpha", 1.0) * np.tensordot(affine.shift, weight.values, (0, axis))
    replaced = {1: weight.scaled(along(affine.scale, 2, axis)), 2: _gemm_bias(node, constants) + gained}
    return Absorbed(Edit(node, replaced, _float_type(node, constants), dropped=("beta",)))


def _gemm_bias(node: ir.Node, constants: Constants) -> F64:
    return node.attributes.get_float("beta", 1.0) * constants.bias(node, 2)


@backward("MatMul")
def mat_mul_back(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    """B'_:k = s_k B_:k, and the shift behind it."""
    weight = _matrix(node, constants)
    rank = require_rank(node, node.inputs[0])
    require_axis(node, affine.axis, rank - 1, affine.channels, weight.values.shape[1])
    return Absorbed(_product(node, rank, weight.scaled(along(affine.scale, 2, 1)), affine.shift, constants))


@forward("MatMul")
def mat_mul_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """B'_k: = s_k B_k:, and t B behind it."""
    _right_operand(node, index, constants)
    require_uniform(node, affine)
    weight = _matrix(node, constants)
    rank = require_rank(node, node.inputs[0])
    require_axis(node, affine.axis, rank - 1, affine.channels, weight.values.shape[0])
    gained = affine.shift @ weight.values
    return Absorbed(_product(node, rank, weight.scaled(along(affine.scale, 2, 0)), gained, constants))


def _matrix(node: ir.Node, constants: Constants) -> weights.Weight:
    weight = weights.read(node, 1, constants)
    if weight.values.ndim != 2:
        raise StaysError(Reason.AXIS, f"{named(node)} has a weight of rank {weight.values.ndim}, wanted 2")
    return weight


def _product(node: ir.Node, rank: int, weight: weights.Weight, shift: F64, constants: Constants) -> Edit:
    dtype = _float_type(node, constants)
    if rank == 2:
        return Edit(node, {1: weight, 2: shift}, dtype, op_type="Gemm")
    return Edit(node, {1: weight}, dtype, behind=shift if shift.any() else None)


def _right_operand(node: ir.Node, index: int, constants: Constants) -> weights.Weight:
    """Return the weight, the input 1, where the map arrives at the input 0."""
    if index != 0:
        raise StaysError(Reason.BLOCKED, f"{named(node)} takes it as its input {index}")
    return weights.read(node, 1, constants)


def _float_type(node: ir.Node, constants: Constants) -> ir.DataType:
    value = node.inputs[1]
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return constants.dtype(producer.inputs[1])
    return constants.dtype(value)
