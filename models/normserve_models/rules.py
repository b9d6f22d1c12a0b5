"""How an affine map moves backward through each operator: the algebra, one rule an operator.

Let y = s * v + t be a map on a value v, per channel k of its channel axis. A rule is asked what becomes of the map when
v comes out of its operator. It answers that the operator takes the map into its constants (`Absorbed`) or that the map
moves on to inputs of the operator (`Passed`), or it raises StaysError.

Absorbed, every constant being float64:

    Conv            v_k = sum W_k x + b_k             ->  W'_k = s_k W_k,    b'_k = s_k b_k + t_k
    ConvTranspose   likewise; channel k of group g is column k - g M/G of the rows of that group
    Gemm            v = alpha A B + beta C            ->  B'_:k = s_k B_:k,  C' = s (beta C) + t,  beta' = 1
    MatMul          v = A B, both of rank 2           ->  Gemm(A, B', t)

Passed, the operator itself dissolving into the map:

    Add             v = u + c, c one value a channel  ->  s * u + (s * c + t)
    BatchNormalization   v = a * u + b                ->  (s a) * u + (s b + t)

and where nothing above such a batch norm takes the composed map, the batch norm itself can: gamma' = s * gamma,
beta' = s * beta + t. That is its `rest`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from normserve_models import affine as algebra
from normserve_models.legality import Reason, StaysError, named, require_axis, require_rank

if TYPE_CHECKING:
    from normserve_models.affine import F64, Affine
    from normserve_models.constants import Constants

DEFAULT_EPSILON = float(np.float32(1e-5))  # attributes are float32 in the file


@dataclass(frozen=True, eq=False)
class Edit:
    """New constants of one node.

    Attributes:
        node: The node.
        constants: The new value of each input that changes, by its index.
        dtype: The type in which these are written.
        op_type: What the node becomes; None where it stays what it is.
        dropped: Attributes that the node loses, because their default holds now.
    """

    node: ir.Node
    constants: dict[int, F64]
    dtype: ir.DataType
    op_type: str | None = None
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Absorbed:
    """The map ends here, in these constants."""

    edit: Edit


@dataclass(frozen=True, eq=False)
class Passed:
    """The map moves on, to inputs of the operator.

    Attributes:
        branches: The values on which it acts now, each with what has become of it.
        dissolves: The operator has become part of the map; the first branch takes its place.
        rest: Where the map can stay if nothing further on takes it.
    """

    branches: list[tuple[ir.Value, Affine]]
    dissolves: bool = False
    rest: Edit | None = None


Step = Absorbed | Passed
Rule = Callable[[ir.Node, "Affine", "Constants"], Step]

BACKWARD: dict[str, Rule] = {}


def backward(*op_types: str) -> Callable[[Rule], Rule]:
    """Register the rule that moves a map backward through operators of ONNX's own domain."""

    def register(rule: Rule) -> Rule:
        BACKWARD.update(dict.fromkeys(op_types, rule))
        return rule

    return register


def step_back(value: ir.Value, affine: Affine, constants: Constants) -> Step:
    """Ask the rule of the operator that `value` comes out of.

    Raises:
        StaysError: There is no operator, it has no rule, or the rule does not allow the move.
    """
    node = value.producer()
    if node is None:
        raise StaysError(Reason.BLOCKED, f"the graph input {value.name!r} comes before it")
    rule = BACKWARD.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
    if rule is None or value.index() != 0:
        raise StaysError(Reason.BLOCKED, f"{named(node)} comes before it")
    return rule(node, affine, constants)


@backward("Conv")
def _conv(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    weight = constants.require(node, 1)
    require_axis(node, affine.axis, 1, affine.channels, weight.shape[0])
    scale, _ = affine.along(weight.ndim, axis=0)
    return _filters(node, weight * scale, affine, constants)


@backward("ConvTranspose")
def _conv_transpose(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    weight = constants.require(node, 1)  # [C, M/groups, ...]
    groups = node.attributes.get_int("group", 1)
    require_axis(node, affine.axis, 1, affine.channels, weight.shape[1] * groups)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    scale = affine.scale.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return _filters(node, (grouped * scale).reshape(weight.shape), affine, constants)


def _filters(node: ir.Node, weight: F64, affine: Affine, constants: Constants) -> Step:
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    bias = constants.require(node, 2) if has_bias else 0.0
    shift = affine.after(1.0, bias).shift
    return Absorbed(Edit(node, {1: weight, 2: shift}, constants.dtype(node.inputs[1])))


@backward("Gemm")
def _gemm(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    weight = constants.require(node, 1)
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    require_axis(node, affine.axis, 1, affine.channels, weight.shape[axis])
    scale, _ = affine.along(2, axis)
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    beta = node.attributes.get_float("beta", 1.0)
    bias = beta * constants.require(node, 2) if has_bias else np.zeros(())
    replaced = {1: weight * scale, 2: affine.scale * bias + affine.shift}
    return Absorbed(Edit(node, replaced, constants.dtype(node.inputs[1]), dropped=("beta",)))


@backward("MatMul")
def _mat_mul(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    weight = constants.require(node, 1)
    if weight.ndim != 2:
        raise StaysError(Reason.AXIS, f"{named(node)} has a weight of rank {weight.ndim}, wanted 2")
    require_rank(node, node.inputs[0], 2)
    require_axis(node, affine.axis, 1, affine.channels, weight.shape[1])
    scale, _ = affine.along(2, axis=1)
    replaced = {1: weight * scale, 2: affine.shift}
    return Absorbed(Edit(node, replaced, constants.dtype(node.inputs[1]), op_type="Gemm"))


@backward("Add")
def _add(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    constant = next((index for index in (1, 0) if _is_constant(node.inputs[index], constants)), None)
    if constant is None:
        raise StaysError(Reason.BLOCKED, f"{named(node)} of two computed values comes before it")
    value = node.inputs[1 - constant]
    rank = _rank(node.outputs[0])
    require_rank(node, value, rank)
    added = _per_channel(node, constants.require(node, constant), rank, affine)
    assert value is not None  # noqa: S101 - require_rank has looked
    return Passed([(value, affine.after(1.0, added))], dissolves=True)


def _is_constant(value: ir.Value | None, constants: Constants) -> bool:
    return value is not None and constants.read(value) is not None


def _rank(value: ir.Value) -> int:
    return -1 if value.shape is None else value.shape.rank()


def _per_channel(node: ir.Node, array: F64, rank: int, affine: Affine) -> F64:
    """Return the constant as one value a channel, [C] or [1]; broadcasting aligns its dimensions from the right."""
    shape = [1] * (rank - array.ndim) + list(array.shape)
    allowed = len(shape) == rank and all(
        size == 1 or (axis == affine.axis and size == affine.channels) for axis, size in enumerate(shape)
    )
    if not allowed:
        raise StaysError(Reason.BLOCKED, f"{named(node)} adds a constant of shape {list(array.shape)}, not one per channel")
    return array.reshape(-1)


@backward("BatchNormalization")
def _batch_norm(node: ir.Node, affine: Affine, constants: Constants) -> Step:
    try:
        own = batch_norm(node, constants)
    except StaysError as stays:
        raise StaysError(Reason.BLOCKED, f"{named(node)} comes before it, which stays: {stays}") from stays
    require_axis(node, affine.axis, own.axis, affine.channels, own.channels)
    value = node.inputs[0]
    assert value is not None  # noqa: S101 - the first input of a batch norm is not optional
    gamma = affine.scale * constants.require(node, 1)
    beta = affine.after(1.0, constants.require(node, 2)).shift
    rest = Edit(node, {1: gamma, 2: beta}, constants.dtype(node.inputs[1]))
    return Passed([(value, affine.after(own.scale, own.shift))], dissolves=True, rest=rest)


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
