"""What affine maps a graph holds: batch norms, and the chains of per-channel arithmetic that frozen ones are written as.

A chain is two or more of Mul, Div, Add and Sub in a row, each with one constant value a channel and none read by anybody else,
that both scales and shifts: x * scale + bias, or (x - mean) / std.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normserve_models import graph
from normserve_models.affine import Affine
from normserve_models.constants import FLOATS
from normserve_models.graph import OWN_DOMAINS
from normserve_models.legality import Reason, StaysError, dims, named, rank, readers
from normserve_models.rules.elementwise import ARITHMETIC, batch_norm, constant_operand, of_constant

if TYPE_CHECKING:
    import onnx_ir as ir

    from normserve_models.constants import Constants

OLDEST_OPSET = 9


@dataclass(frozen=True, eq=False)
class Source:
    """Nodes that are one affine map.

    Attributes:
        nodes: From the first to the last, each with the index of its input that is not constant.
    """

    nodes: list[tuple[ir.Node, int]]

    @property
    def node(self) -> ir.Node:
        """The first node, after which the map is called."""
        return self.nodes[0][0]

    @property
    def is_batch_norm(self) -> bool:
        """Whether it is a BatchNormalization node."""
        return self.node.op_type == graph.BATCH_NORM

    @property
    def value(self) -> ir.Value:
        """What it reads."""
        node, index = self.nodes[0]
        value = node.inputs[index]
        if value is None:
            raise StaysError(Reason.BLOCKED, f"{named(node)} has no input")
        return value

    @property
    def result(self) -> ir.Value:
        """What it gives."""
        return self.nodes[-1][0].outputs[0]

    def affine(self, constants: Constants) -> Affine:
        """Return the map.

        Raises:
            StaysError: It is not fixed, or not finite.
        """
        if self.is_batch_norm:
            if constants.opset < OLDEST_OPSET:
                raise StaysError(Reason.OPSET, f"the file is of opset {constants.opset}")
            return batch_norm(self.node, constants)
        axis, channels = _axis(self.nodes, constants)
        affine = Affine(np.ones(channels), np.zeros(channels), axis)
        for node, index in self.nodes:
            own = of_constant(node, 1 - index, rank(self.result) or 0, axis, channels, constants)
            affine = affine.before(own.scale, own.shift)
        if not (np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all()):
            raise StaysError(Reason.BAD_STATISTICS, f"the constants of {named(self.node)} give no finite map")
        return affine


def batch_norms(model: ir.Model) -> list[Source]:
    """Return the batch norms of the model, in the order of the graph."""
    return [Source([(node, 0)]) for node in graph.batch_norms(model)]


def chains(model: ir.Model, constants: Constants) -> list[Source]:
    """Return the frozen batch norms of the model, in the order of the graph."""
    found: list[Source] = []
    taken: set[ir.Node] = set()
    for node in model.graph.all_nodes():
        if node in taken or _data_index(node, constants) is None:
            continue
        nodes = _chain(node, constants)
        taken.update(link for link, _ in nodes)
        if _scales_and_shifts(nodes) and _has_channels(nodes, constants):
            found.append(Source(nodes))
    return found


def _chain(node: ir.Node | None, constants: Constants) -> list[tuple[ir.Node, int]]:
    nodes: list[tuple[ir.Node, int]] = []
    while node is not None and (index := _data_index(node, constants)) is not None:
        nodes.append((node, index))
        node = _only_reader(node.outputs[0])
    return nodes


def _data_index(node: ir.Node, constants: Constants) -> int | None:
    """Return the index of the input that is not constant, of an operator that scales or shifts by one that is."""
    if node.op_type not in ARITHMETIC or node.domain not in OWN_DOMAINS or len(node.inputs) != 2:
        return None
    try:
        constant = constant_operand(node, constants)
        both = constant is not None and constants.read(node.inputs[1 - constant]) is not None
    except StaysError:
        return None
    if constant is None or both or (node.op_type == "Div" and constant == 0):
        return None
    value, data = node.inputs[constant], node.inputs[1 - constant]
    known = rank(data) is not None and rank(data) == rank(node.outputs[0])
    return 1 - constant if known and constants.dtype(value) in FLOATS else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    found = readers(value)
    return None if value.is_graph_output() or len(found) != 1 else found[0][0]


def _scales_and_shifts(nodes: list[tuple[ir.Node, int]]) -> bool:
    kinds = {node.op_type for node, _ in nodes}
    return bool(kinds & {"Mul", "Div"}) and bool(kinds & {"Add", "Sub"})


def _has_channels(nodes: list[tuple[ir.Node, int]], constants: Constants) -> bool:
    try:
        _axis(nodes, constants)
    except StaysError:
        return False
    return True


def _axis(nodes: list[tuple[ir.Node, int]], constants: Constants) -> tuple[int, int]:
    """Return the axis along which the constants of a chain differ, and its extent."""
    places: set[tuple[int, int]] = set()
    for node, index in nodes:
        shape = np.shape(constants.require(node, 1 - index))
        start = (rank(node.outputs[0]) or 0) - len(shape)
        places |= {(start + axis, size) for axis, size in enumerate(shape) if size != 1}
    if not places and (dims(nodes[0][0].outputs[0]) or [])[1:2] == [1]:
        return 1, 1
    if len(places) != 1 or min(places)[0] < 1:
        raise StaysError(Reason.AXIS, f"the constants behind {named(nodes[0][0])} differ along {sorted(places)}")
    [(axis, channels)] = places
    first, index = nodes[0]
    if (dims(first.inputs[index]) or [])[axis : axis + 1] != [channels]:  # it may be 1, which the constants would widen
        raise StaysError(Reason.AXIS, f"what {named(first)} reads is not known to have {channels} channels")
    return axis, channels
