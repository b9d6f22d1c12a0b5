"""Merging what meets in a sum: layers that read the same value are one layer with the sum of their weights.

    Conv(x; W, b) + Conv(x; V, c)  =  Conv(x; W + V, b + c)      where V's taps are among W's
    Conv(x; W, b) + s x + t        =  Conv(x; W + diag(s), b + t)    the diagonal on the tap of the place itself

The windows may differ: a tap of V at the offset o joins the tap of W at the same offset, so 1x1, 1x3 and 3x1 kernels go into a
3x3 one, and a batch norm or the value itself into its middle (Ding et al., "RepVGG" (2021), section 3.3). Only sums are looked
at in which a layer has taken in a batch norm, or one is left: this is what makes one layer of a branched block.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from normserve_models import graph, rewrite
from normserve_models.constants import fits
from normserve_models.graph import OWN_DOMAINS
from normserve_models.legality import StaysError, dims, require_sole_use
from normserve_models.rules.elementwise import batch_norm
from normserve_models.steps import Edit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normserve_models.affine import F64
    from normserve_models.constants import Constants
    from normserve_models.rewrite import Work


@dataclass(frozen=True, eq=False)
class Term:
    """One term of a sum, as a convolution of a value.

    Attributes:
        value: The term.
        source: What it reads.
        node: The Conv or the batch norm; None where the term is the value itself.
        weight: float64 [M, C/groups, taps of the window ...].
        bias: float64 [M].
        groups: As of Conv.
        strides, dilations, before, after: One entry a spatial axis, as of Conv; `before` and `after` are its pads.
    """

    value: ir.Value
    source: ir.Value
    node: ir.Node | None
    weight: F64
    bias: F64
    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def offsets(self, axis: int) -> list[int]:
        """Return where the taps of a spatial axis lie, from the place itself."""
        taps = range(self.weight.shape[2 + axis])
        return [tap * self.dilations[axis] - self.before[axis] for tap in taps]

    def slack(self, axis: int) -> int:
        """Return by how much the result is longer than the input at stride 1."""
        extent = self.dilations[axis] * (self.weight.shape[2 + axis] - 1)
        return int(self.before[axis] + self.after[axis] - extent)


def merge(model: ir.Model, work: Work) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Merge what can be merged, in place; yield what has gone and what it has gone into."""
    for node in [node for node in model.graph.all_nodes() if node.op_type in {"Add", "Sub", "Sum"}]:
        while node.graph is not None and (pair := _merge_one(node, work)) is not None:
            if pair[0] is not None:
                yield pair[0], pair[1]


def _merge_one(node: ir.Node, work: Work) -> tuple[ir.Node | None, ir.Node] | None:
    """Merge the first pair of terms of a sum that allows it; return what has gone and what it has gone into."""
    if node.domain not in OWN_DOMAINS:
        return None
    leaves = list(_leaves(node))
    if len(leaves) < 2 or not _concerned(leaves, work):
        return None
    sources = {_source(value) for _, _, value in leaves}
    for host_at, guest_at in itertools.permutations(leaves, 2):
        host, guest = (_term(value, sources, work.constants) for value in (host_at[2], guest_at[2]))
        if host is not None and guest is not None and _sign(host_at) > 0 and _compatible(host, guest):
            return _join(host, guest, guest_at, node, work)
    return None


Leaf = tuple[ir.Node, int, ir.Value]  # the sum that reads it, as which input, and the term


def _leaves(node: ir.Node) -> Iterator[Leaf]:
    """Yield the terms of a sum and of the sums that go into it alone."""
    for index, value in enumerate(node.inputs):
        producer = None if value is None else value.producer()
        if value is None:
            continue
        nested = producer is not None and producer.op_type in {"Add", "Sum"} and producer.domain in OWN_DOMAINS
        if nested and producer is not None and not (node.op_type == "Sub" and index == 1) and _sole(value):
            yield from _leaves(producer)
        else:
            yield node, index, value


def _sole(value: ir.Value) -> bool:
    try:
        require_sole_use(value)
    except StaysError:
        return False
    return True


def _sign(leaf: Leaf) -> int:
    node, index, _ = leaf
    return -1 if node.op_type == "Sub" and index == 1 else 1


def _concerned(leaves: list[Leaf], work: Work) -> bool:
    nodes = [value.producer() for _, _, value in leaves]
    return any(node is not None and (node in work.edited or node.op_type == graph.BATCH_NORM) for node in nodes)


def _source(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    return node.inputs[0] if node is not None and node.op_type == "Conv" else None


def _term(value: ir.Value, sources: set[ir.Value | None], constants: Constants) -> Term | None:
    """Return a term as a convolution of a value that some Conv of the sum reads."""
    node = value.producer()
    try:
        if node is not None and node.op_type == "Conv" and node.domain in OWN_DOMAINS and _sole(value):
            return _convolution(value, node, constants)
        if node is not None and node.op_type == graph.BATCH_NORM and node.inputs[0] in sources and _sole(value):
            affine = batch_norm(node, constants)
            return _diagonal(value, node.inputs[0], node, affine.scale, affine.shift)
        channels = (dims(value) or [None, None])[1:2]
        if value in sources and channels and isinstance(channels[0], int):
            return _diagonal(value, value, None, np.ones(channels[0]), np.zeros(channels[0]))
    except StaysError:
        pass
    return None


def _convolution(value: ir.Value, node: ir.Node, constants: Constants) -> Term | None:
    producer = None if node.inputs[1] is None else node.inputs[1].producer()
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or node.inputs[0] is None:
        return None
    if producer is not None and producer.op_type == "DequantizeLinear":
        return None
    weight = constants.require(node, 1)
    rank = weight.ndim - 2
    pads = tuple(node.attributes.get_ints("pads", [0] * 2 * rank))
    strides, dilations = (tuple(node.attributes.get_ints(name, [1] * rank)) for name in ("strides", "dilations"))
    bias = np.broadcast_to(constants.bias(node, 2), weight.shape[:1])
    groups = node.attributes.get_int("group", 1)
    return Term(value, node.inputs[0], node, weight, bias, groups, strides, dilations, pads[:rank], pads[rank:])


def _diagonal(value: ir.Value, source: ir.Value | None, node: ir.Node | None, scale: F64, shift: F64) -> Term | None:
    shape = dims(source) or dims(value)
    if source is None or shape is None or len(shape) < 3:
        return None
    rank = len(shape) - 2
    weight = scale.reshape(-1, *[1] * (rank + 1))
    ones, zeros = (1,) * rank, (0,) * rank
    return Term(value, source, node, weight, shift, len(scale), ones, ones, zeros, zeros)


def _compatible(host: Term, guest: Term) -> bool:
    """Tell whether the guest's taps are among the host's, in as many groups or more, and both results are of one size."""
    if host.node is None or host.node.op_type != "Conv" or host.source is not guest.source or host.strides != guest.strides:
        return False
    rank = host.weight.ndim - 2
    inside = all(set(guest.offsets(axis)) <= set(host.offsets(axis)) for axis in range(rank))
    same_size = all(host.slack(axis) == guest.slack(axis) for axis in range(rank))
    same_channels = len(host.weight) == len(guest.weight) and _channels(host) == _channels(guest)
    return inside and same_size and same_channels and guest.groups % host.groups == 0


def _channels(term: Term) -> int:
    return int(term.weight.shape[1] * term.groups)


def _join(host: Term, guest: Term, leaf: Leaf, root: ir.Node, work: Work) -> tuple[ir.Node | None, ir.Node] | None:
    assert host.node is not None  # noqa: S101 - _compatible has looked
    sign = _sign(leaf)
    weight, bias = host.weight + sign * _embedded(guest, host), host.bias + sign * guest.bias
    dtype = work.constants.dtype(host.node.inputs[1])
    if not (fits(weight, dtype) and fits(bias, dtype)):
        return None
    rewrite.rewrite(Edit(host.node, {1: weight, 2: bias}, dtype), work)
    _leave_out(leaf, root, work)
    return guest.node, host.node


def _embedded(guest: Term, host: Term) -> F64:
    """Return the guest's weight with the shape of the host's, zero where only the host has taps or channels."""
    rows, columns = guest.weight.shape[:2]
    wide = np.zeros((rows, host.weight.shape[1], *guest.weight.shape[2:]))
    finer = guest.groups // host.groups
    for row in range(rows):
        start = row // (rows // guest.groups) % finer * columns
        wide[row, start : start + columns] = guest.weight[row]
    full = np.zeros_like(host.weight)
    rank = full.ndim - 2
    places = [[host.offsets(axis).index(offset) for offset in guest.offsets(axis)] for axis in range(rank)]
    taps: Any = (slice(None), slice(None), *np.ix_(*places))
    full[taps] = wide
    return full


def _leave_out(leaf: Leaf, root: ir.Node, work: Work) -> None:
    """Take a term out of its sum; what is left of a sum has the name of the whole, if it is the whole."""
    node, index, _ = leaf
    others = [value for place, value in enumerate(node.inputs) if place != index]
    work.freed.append(node.inputs[index])
    if len(others) == 1:
        rewrite.dissolve(node, 1 - index, work, renames=node is root)
        return
    node.replace_input_with(index, others[-1])
    node.resize_inputs(len(others))
