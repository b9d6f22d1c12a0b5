"""What a rule answers when an affine map meets an operator, and where the rules are registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from normserve_models.graph import OWN_DOMAINS
from normserve_models.legality import Reason, StaysError, named

if TYPE_CHECKING:
    from normserve_models.affine import F64, Affine
    from normserve_models.constants import Constants
    from normserve_models.weights import Weight


@dataclass(frozen=True, eq=False)
class Edit:
    """New constants of one node.

    Attributes:
        node: The node.
        constants: The new value of each input that changes, by its index.
        dtype: The float type in which these are written.
        op_type: What the node becomes; None where it stays what it is.
        dropped: Attributes that the node loses, because their default holds now.
        behind: What an Add behind the node adds to its first output, float64 that broadcasts against it; None for nothing.
    """

    node: ir.Node
    constants: Mapping[int, F64 | Weight]
    dtype: ir.DataType
    op_type: str | None = None
    dropped: tuple[str, ...] = ()
    behind: F64 | None = None


@dataclass(frozen=True, eq=False)
class Absorbed:
    """The map ends here, in these constants."""

    edit: Edit


@dataclass(frozen=True, eq=False)
class Passed:
    """The map moves on, to inputs of the operator or to its output.

    Attributes:
        branches: The values on which it acts now, each with what has become of it.
        dissolves: The index of the input that takes the place of the operator, which has become part of the map.
        edit: Constants of the operator that change because the map has passed it.
        rest: Where the map can stay if nothing further on takes it.
        of_bodies: The branches are results of the operator's bodies.
    """

    branches: list[tuple[ir.Value, Affine]]
    dissolves: int | None = None
    edit: Edit | None = None
    rest: Edit | None = None
    of_bodies: bool = False


Step = Absorbed | Passed
Backward = Callable[[ir.Node, "Affine", "Constants"], Step]
Forward = Callable[[ir.Node, int, "Affine", "Constants"], Step]

BACKWARD: dict[str, Backward] = {}
FORWARD: dict[str, Forward] = {}


def backward(*op_types: str) -> Callable[[Backward], Backward]:
    """Register the rule that moves a map backward, from the first output of operators of ONNX's own domain to their inputs."""

    def register(rule: Backward) -> Backward:
        BACKWARD.update(dict.fromkeys(op_types, rule))
        return rule

    return register


def forward(*op_types: str) -> Callable[[Forward], Forward]:
    """Register the rule that moves a map forward, from one input of operators of ONNX's own domain to their output."""

    def register(rule: Forward) -> Forward:
        FORWARD.update(dict.fromkeys(op_types, rule))
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
    rule = BACKWARD.get(node.op_type) if node.domain in OWN_DOMAINS else None
    if rule is None or value.index() != 0 or _other_results(node):
        raise StaysError(Reason.BLOCKED, f"{named(node)} comes before it")
    with np.errstate(all="ignore"):  # what is not finite is a reason to stay, not a warning
        return rule(node, affine, constants)


def step_ahead(node: ir.Node, index: int, affine: Affine, constants: Constants) -> Step:
    """Ask the rule of an operator that a map arrives at.

    Raises:
        StaysError: It has no rule, or the rule does not allow the move.
    """
    rule = FORWARD.get(node.op_type) if node.domain in OWN_DOMAINS else None
    if rule is None or _other_results(node):
        raise StaysError(Reason.BLOCKED, f"{named(node)} comes after it")
    with np.errstate(all="ignore"):
        return rule(node, index, affine, constants)


def _other_results(node: ir.Node) -> bool:
    """Tell whether another output than the first is used, as the indices of a pool or the mask of a dropout may be."""
    return any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
