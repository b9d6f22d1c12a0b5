"""Fold the batch norms of an ONNX graph into the weights beside them.

Each batch norm is taken as an affine map and carried from operator to operator by the rules in `rules`: backward, until one
takes it in, or else forward, until all that read it have. The way is planned first and nothing is touched before the whole
plan is known to be legal and worth it. Batch norms are visited from the end of the graph, so that several in a row go as one
map; branches that meet in a sum are merged where they read the same value; and all of that again, until nothing moves. New
constants stay in float64 until then: each is rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from normserve_models import cost, graph, parallel, rewrite, sources, wiring
from normserve_models.constants import Constants, fits
from normserve_models.legality import Reason, StaysError, named
from normserve_models.plan import Plan, carry_ahead, carry_back
from normserve_models.report import Cost, Norm
from normserve_models.rewrite import Work
from normserve_models.steps import Edit
from normserve_models.weights import Quantized

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from normserve_models.affine import F64
    from normserve_models.sources import Source


@dataclass
class Fate:
    """What has become of a batch norm, or of a chain that is one.

    Attributes:
        source: The nodes.
        name, scale: What a report calls it, as it was in the file.
        into: The nodes that have taken it in; None as long as it stays.
        stays: Why it does.
        way: What its map has met.
        cost: Of the fold.
    """

    source: Source
    name: str
    scale: str
    into: list[ir.Node] | None = None
    stays: StaysError | None = None
    way: list[str] = field(default_factory=list)
    cost: Cost | None = None


def fold(model: ir.Model) -> list[Norm]:
    """Fold what can be folded exactly, in place.

    Args:
        model: The model, its nodes in topological order. Its functions are inlined.

    Returns:
        What became of each batch norm, in the order of the graph; then the frozen ones, written as arithmetic, that folded.
    """
    norms, exact = fold_unrounded(model, {})
    rewrite.round_exact(exact)
    return norms


def fold_unrounded(model: ir.Model, exact: Mapping[ir.Value, F64]) -> tuple[list[Norm], dict[ir.Value, F64]]:
    """Fold as `fold` does, and leave the new constants in float64, for who rounds them to another type than the file's.

    Args:
        model: As of `fold`.
        exact: Initializers whose values are known better than the file's type can hold.

    Returns:
        What became of each batch norm, and the initializers that are to be rounded, with their values.
    """
    folding = Folding(model, exact)
    with np.errstate(all="ignore"):  # what is not finite is a reason to stay, not a warning
        while folding.round():
            pass
    if folding.work.edited:
        rewrite.settle(model, folding.work)
    folding.sweep()
    return folding.norms(), folding.work.constants.exact


class Folding:
    """The fold of one model."""

    def __init__(self, model: ir.Model, exact: Mapping[ir.Value, F64]) -> None:
        graph.inline_functions(model)
        wiring.sweep_dead(model)
        graph.infer_shapes(model)
        self.work = Work(Constants(graph.opsets(model)), wiring.Names(model))
        self.work.constants.exact.update(exact)
        self._model = model
        self._fates = {source.node: _fate(source) for source in sources.batch_norms(model)}

    def round(self) -> bool:
        """Try all that is left; return whether anything has moved."""
        left = self._left()
        moved = [self._try(source, backward=True) for source in reversed(left)]
        moved += self._merge()
        moved += [self._try(source, backward=False) for source in left]
        self.sweep()  # what reads a value without being read itself must not stand in the way any longer
        return any(moved)

    def sweep(self) -> None:
        """Remove what folds have left unused."""
        wiring.sweep(self.work.freed)
        self.work.freed.clear()

    def _left(self) -> list[Source]:
        for chain in sources.chains(self._model, self.work.constants):
            self._fates.setdefault(chain.node, _fate(chain)).source = chain
        return [fate.source for fate in self._fates.values() if fate.into is None and fate.source.node.graph is not None]

    def _try(self, source: Source, *, backward: bool) -> bool:
        fate = self._fates[source.node]
        if fate.into is not None:  # another map has met it and taken it along
            return False
        plan = Plan()
        try:
            _carry(source, plan, self.work.constants, backward=backward)
        except StaysError as stays:
            fate.stays = stays if backward else _both(fate.stays, stays)
            fate.way = [*([] if backward else fate.way), *plan.way, stays.detail]
            return False
        self._settle(fate, plan)
        return True

    def _settle(self, fate: Fate, plan: Plan) -> None:
        """Carry out a plan, and note what becomes of the batch norms that it has met."""
        into = [edit.node for edit in plan.edits]
        fate.cost = cost.of(plan, self.work.constants)
        for node, _ in plan.dissolved:
            if node in self._fates:
                self._fates[node].into = into
                self._fates[node].way = list(plan.way)
        fate.into, fate.way = into, list(plan.way)
        rewrite.apply(plan, self.work)

    def _merge(self) -> list[bool]:
        merged = list(parallel.merge(self._model, self.work))
        for guest, host in merged:
            if guest in self._fates:
                self._fates[guest].into = [host]
                self._fates[guest].way = [f"beside {named(host)}, which reads the same value, into it"]
            for fate in self._fates.values():
                if fate.into is not None and guest in fate.into:
                    fate.into = list(dict.fromkeys(host if node is guest else node for node in fate.into))
        return [True] * len(merged)

    def norms(self) -> list[Norm]:
        """Return what a report says."""
        shown = [fate for fate in self._fates.values() if fate.source.is_batch_norm or fate.into is not None]
        return [self._norm(fate) for fate in shown]

    def _norm(self, fate: Fate) -> Norm:
        if fate.into is not None:
            into = list(dict.fromkeys(graph.label(node) for node in self._ends(fate.into)))
            return Norm(fate.name, fate.scale, folded=True, into=into, way=fate.way, cost=fate.cost)
        stays = fate.stays or StaysError(Reason.BLOCKED, "nothing takes it")
        return Norm(fate.name, fate.scale, folded=False, reason=stays.reason.value, detail=stays.detail, way=fate.way)

    def _ends(self, into: list[ir.Node]) -> list[ir.Node]:
        """Return where maps are in the end: a batch norm that took one in may have gone itself later."""
        ends: list[ir.Node] = []
        for node in into:
            further = self._fates[node].into if node in self._fates else None
            ends += self._ends(further) if further is not None and node not in further else [node]
        return ends


def _fate(source: Source) -> Fate:
    scale = source.node.inputs[1] if len(source.node.inputs) > 1 else None
    return Fate(source, graph.label(source.node), "" if scale is None else str(scale.name))


def _carry(source: Source, plan: Plan, constants: Constants, *, backward: bool) -> None:
    """Plan the way of a map to its end.

    Raises:
        StaysError: There is none, or it is not worth going.
    """
    affine = source.affine(constants)
    plan.dissolved.extend(reversed(source.nodes))
    if backward:
        carry_back(source.value, affine, constants, plan)
        _require_worth(plan, source, constants)
        return
    try:
        carry_ahead(source.result, affine, constants, plan)
        _require_worth(plan, source, constants)
    except StaysError as stays:
        if len(source.nodes) == 1 or stays.reason not in {Reason.COST, Reason.DYNAMIC_PADDING}:
            raise
        _leave_shift(source, plan, constants)


def _leave_shift(source: Source, plan: Plan, constants: Constants) -> None:
    """Let a chain be x + t / s, and carry only its scale on: zeros that are padded behind it stay what they were."""
    affine = source.affine(constants)
    shift = affine.shift / affine.scale
    if not np.isfinite(shift).all():
        raise StaysError(Reason.COST, f"{named(source.node)} has a channel with the scale 0")
    (first, data), *others = source.nodes
    constant = first.inputs[1 - data]
    shape = np.shape(constants.require(first, 1 - data)) if constant is not None else ()
    kept = Edit(first, {1 - data: _shaped(shift, shape, affine.axis, first)}, constants.dtype(constant), op_type="Add")
    plan.restart([kept], list(reversed(others)), f"its shift stays in {named(first)}")
    carry_ahead(source.result, affine.without_shift(), constants, plan)
    _require_worth(plan, source, constants)


def _shaped(shift: F64, shape: tuple[int, ...], axis: int, node: ir.Node) -> F64:
    if np.size(shift) == np.prod(shape):
        return shift.reshape(shape)
    shown = node.outputs[0].shape
    trailing = 0 if shown is None else shown.rank() - axis - 1
    return shift.reshape(-1, *[1] * trailing)


def _require_worth(plan: Plan, source: Source, constants: Constants) -> None:
    for edit in plan.edits:
        _require_finite(edit)
    cost.require_cheap(plan, source.value, constants)


def _require_finite(edit: Edit) -> None:
    for index, constant in edit.constants.items():
        array = (
            constant
            if isinstance(constant, np.ndarray)
            else constant.scale
            if isinstance(constant, Quantized)
            else constant.values
        )
        if not fits(array, edit.dtype):
            raise StaysError(Reason.OVERFLOW, f"input {index} of {named(edit.node)} overflows {edit.dtype.name}")
    if edit.behind is not None and not fits(edit.behind, edit.dtype):
        raise StaysError(Reason.OVERFLOW, f"what is added behind {named(edit.node)} overflows {edit.dtype.name}")


def _both(back: StaysError | None, ahead: StaysError) -> StaysError:
    """Return why a batch norm stays that neither way is open to: what tells more than that an operator is in the way."""
    if back is None or str(back) == str(ahead):
        return ahead
    reason = ahead.reason if back.reason is Reason.BLOCKED else back.reason
    return StaysError(reason, f"{back.detail}; {ahead.detail}")
