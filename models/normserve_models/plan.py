"""The way of one affine map through the graph, found step by step by the rules before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from normserve_models import steps
from normserve_models.legality import Reason, StaysError, named, readers, require_sole_use
from normserve_models.steps import Absorbed, Edit, Passed

if TYPE_CHECKING:
    import onnx_ir as ir

    from normserve_models.affine import Affine
    from normserve_models.constants import Constants


@dataclass
class Plan:
    """What carries a map to its end.

    Attributes:
        edits: The constants that change.
        dissolved: The nodes that are left out, each with the index of the input that takes its place.
        moved: The values that the map has passed: they hold something else then, under whatever name.
        way: What the map has met, in words.
        renames: Whether what takes the place of a node takes its name too, as it does backward.
    """

    edits: list[Edit] = field(default_factory=list)
    dissolved: list[tuple[ir.Node, int]] = field(default_factory=list)
    moved: list[ir.Value] = field(default_factory=list)
    way: list[str] = field(default_factory=list)
    renames: bool = True
    _met: set[ir.Node] = field(default_factory=set)

    def meet(self, node: ir.Node) -> None:
        """Note that a step changes `node` or moves through it.

        Raises:
            StaysError: The map has come there before, on another way: each step is planned on the constants as they were.
        """
        if node in self._met:
            raise StaysError(Reason.BLOCKED, f"{named(node)} gets it on two ways")
        self._met.add(node)

    def take(self, node: ir.Node, step: steps.Step, direction: str) -> None:
        """Note a step."""
        if isinstance(step, Absorbed):
            self.edits.append(step.edit)
            self.way.append(f"into {named(node)}")
            return
        self.way.append(f"{direction} through {named(node)}")
        if step.edit is not None:
            self.edits.append(step.edit)
        if step.dissolves is None:
            self.moved += [value for value, _ in step.branches]
        else:
            self.dissolved.append((node, step.dissolves))

    def restart(self, edits: list[Edit], dissolved: list[tuple[ir.Node, int]], why: str) -> None:
        """Forget all but the way, and begin with other steps."""
        self.edits, self.dissolved, self.moved = edits, dissolved, []
        self._met.clear()
        self.way.append(why)

    def cut(self, edits: int, dissolved: int, moved: int, last: Edit) -> None:
        """Keep the first steps only, and end in `last`."""
        self.edits[edits:] = [last]
        del self.dissolved[dissolved:]
        del self.moved[moved:]
        self.way.append(f"back to {named(last.node)}, which takes it")


def carry_back(value: ir.Value, affine: Affine, constants: Constants, plan: Plan, *, of_body: bool = False) -> None:
    """Carry a map backward from `value` until operators have taken it in whole, noting the way in `plan`.

    Raises:
        StaysError: Something does not let it through, and there was no place to rest before.
    """
    rested: tuple[int, int, int, Edit] | None = None  # how much was planned before the place of rest, and what stays there
    while True:
        try:
            require_sole_use(value, of_body=of_body)
            step = steps.step_back(value, affine, constants)
            node = _producer(value)
            plan.meet(node)
            if isinstance(step, Passed) and step.rest is not None:
                rested = len(plan.edits), len(plan.dissolved), len(plan.moved), step.rest
            plan.take(node, step, "back")
            if isinstance(step, Absorbed):
                return
            for branch, moved in step.branches[1:]:
                carry_back(branch, moved, constants, plan, of_body=step.of_bodies)
        except StaysError as stays:
            if rested is None:
                raise
            plan.way.append(stays.detail)
            plan.cut(*rested)
            return
        (value, affine), of_body = step.branches[0], step.of_bodies


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None  # noqa: S101 - a rule has been asked for it
    return node


def carry_ahead(value: ir.Value, affine: Affine, constants: Constants, plan: Plan) -> None:
    """Carry a map forward from `value` until everything that reads it has taken it in, noting the way in `plan`.

    Raises:
        StaysError: Something does not let it through.
    """
    plan.renames = False
    pending = [(value, affine)]
    while pending:
        value, affine = pending.pop()
        for node, index in _readers(value):
            step = steps.step_ahead(node, index, affine, constants)
            plan.meet(node)
            plan.take(node, step, "ahead")
            if isinstance(step, Passed):
                pending.extend(step.branches)


def _readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    found = readers(value)
    if value.is_graph_output():
        if found:
            raise StaysError(Reason.GRAPH_OUTPUT, f"{value.name!r} is an output of the graph")
        raise StaysError(Reason.BLOCKED, f"the graph ends after it, with {value.name!r}")
    if not found:
        raise StaysError(Reason.BLOCKED, f"nothing reads {value.name!r}")
    return found
