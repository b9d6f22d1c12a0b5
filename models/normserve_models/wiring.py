"""Changing a graph: names that are free, nodes left out, and what nothing uses any more."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx_ir as ir


class Names:
    """Gives names that no value of a model has."""

    def __init__(self, model: ir.Model) -> None:
        self._taken = {value.name for graph in model.graphs() for value in _values(graph)}
        self._numbers: dict[str, Iterator[int]] = {}

    def fresh(self, base: str) -> str:
        """Return `base`, or `base` with the first number that makes it unique."""
        name = base
        numbers = self._numbers.setdefault(base, itertools.count(2))
        while name in self._taken:
            name = f"{base}.{next(numbers)}"
        self._taken.add(name)
        return name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def dissolve(node: ir.Node, kept: ir.Value, *, renames: bool = True) -> None:
    """Leave `node` out: `kept` takes the place of its first output, and its name and shape where `renames` says so."""
    gone = node.outputs[0]
    graph = node.graph
    assert graph is not None  # noqa: S101 - only nodes of a graph are dissolved
    # A body's result is a value of its own, and no two outputs, nor an input and an output, are one value.
    if gone.is_graph_output() and (kept.graph is not graph or kept.producer() is None or kept.is_graph_output()):
        _become_identity(node, kept)
        return
    renames = renames and kept.graph is graph and kept.producer() is not None and not kept.is_graph_output()
    gone.replace_all_uses_with(kept, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if renames:
        kept.name, kept.shape, kept.type = gone.name, gone.shape or kept.shape, gone.type or kept.type


def _become_identity(node: ir.Node, kept: ir.Value) -> None:
    node.op_type = "Identity"
    node.attributes.clear()
    node.resize_inputs(1)
    node.replace_input_with(0, kept)


def sweep_dead(model: ir.Model) -> None:
    """Remove what no output depends on: it would stand in the way of a fold as a reader, and is never run."""
    sweep(value for node in model.graph.all_nodes() for value in node.outputs)


def sweep(values: Iterable[ir.Value | None]) -> None:
    """Remove those initializers that nothing uses any more, and the nodes that made such constants."""
    pending = list(dict.fromkeys(values))  # once each: asking a value for its uses costs as much as it has
    while pending:
        value = pending.pop()
        if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        node = value.producer()
        if value.is_initializer():
            assert value.graph is not None  # noqa: S101 - an initializer belongs to a graph
            del value.graph.initializers[str(value.name)]
        elif node is not None and node.graph is not None and not _used(node):
            pending.extend(node.inputs)
            node.graph.remove(node, safe=True)


def _used(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)
