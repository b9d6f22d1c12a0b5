"""The layers of which a fold has changed the constants, and how far both files are off there.

A layer is a value of the main graph that has its name in both files and comes out of a node that reads something that the
source has not: a new weight, or a value that a map was carried through. A name that both files have has to mean the same
value in both: what takes the place of a batch norm takes over the name of its output, and what holds something else than in
the source has another name.

To look at such values, a copy of the file is given more outputs. An ONNX file is one protobuf message, and of two messages
written one after the other the lists are joined: so the outputs are written at the end of the copy, whatever its size.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from normserve_models import graph, runtime
from normserve_models.measure import FOLDED, Measure, finite
from normserve_models.report import LayerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import onnx_ir as ir

    from normserve_models.draw import Batch
    from normserve_models.kernels import Array
    from normserve_models.measure import Allowance

MOST_ELEMENTS = 1 << 18  # of a layer that are compared; 2 MB in float64
MOST_FETCHED = 1 << 24  # elements that a run gives at once


@dataclass(frozen=True)
class Layer:
    """A value to look at.

    Attributes:
        node: The node of the folded file that it comes out of; the value's name where the node has none.
        value: Its name, in both files.
    """

    node: str
    value: str


def names(model: ir.Model) -> frozenset[str]:
    """Return the names of all values of the main graph."""
    main = model.graph
    made = (value for node in main for value in node.outputs)
    return frozenset(str(value.name) for value in (*main.inputs, *main.initializers.values(), *made) if value.name)


def changed(folded: ir.Model, known: frozenset[str]) -> list[Layer]:
    """Return the layers of a folded model, in the order of its graph.

    Args:
        folded: The model.
        known: The `names` of its source.
    """
    constant = set(folded.graph.initializers.values())
    new: set[ir.Value] = set()
    found: list[Layer] = []
    for node in folded.graph:
        read = [value for value in node.inputs if value is not None]
        touched = any(value in new or value.name not in known for value in read)
        if constant.issuperset(read):
            constant.update(node.outputs)  # a weight in the making, such as one that is dequantized, is no layer
            new.update(node.outputs if touched else ())
        elif touched:
            found += [Layer(graph.label(node), str(value.name)) for value in node.outputs if value.name in known]
    return found


class Layers:
    """Holds the errors of the layers, of both files.

    Args:
        found: The layers, in the order of the graph.
        allowance: How far the folded file may be off.
    """

    def __init__(self, found: Iterable[Layer], allowance: Allowance) -> None:
        self._layers = {layer.value: layer for layer in found}
        self._measures = {name: Measure(allowance) for name in self._layers}
        self._wanted: dict[str, Array] = {}

    def see(self, name: str, array: Array) -> None:
        """Take in a value of the reference, if it is a layer's."""
        if name in self._layers:
            self._wanted[name] = thinned(array)

    def look_at(self, paths: Mapping[str, Path], batch: Batch) -> None:
        """Run both files on the batch that the reference was run on, and forget what was seen.

        Args:
            paths: The files by what `measure` calls them. Copies are made, one at a time, beside the folded one.
            batch: The batch.

        Raises:
            OSError: A copy cannot be written.
        """
        wanted, self._wanted = self._wanted, {}
        self._measures = {name: measure for name, measure in self._measures.items() if name in wanted}
        try:
            for which, path in paths.items():
                with tempfile.TemporaryDirectory(prefix=".layers.", dir=paths[FOLDED].parent) as directory:
                    copy = Path(directory) / path.name
                    expose(path, copy, wanted)
                    self._look_at(which, copy, batch, wanted)
        except (graph.SourceError, runtime.ProofError):
            self._measures.clear()  # it does not run node by node; the outputs are judged all the same

    def _look_at(self, which: str, copy: Path, batch: Batch, wanted: Mapping[str, Array]) -> None:
        opened = runtime.session(copy, runtime.plain_options())
        for portion in portions({name: array.size for name, array in wanted.items()}):
            for name, got in zip(portion, runtime.run(opened, portion, batch), strict=True):
                self._measures[name].look_at(which, thinned(got), wanted[name])

    def errors(self) -> list[LayerError]:
        """Return the figures, finite ones only, in the order of the graph."""
        return [
            LayerError(self._layers[name].node, name, finite(measure.folded), finite(measure.unfolded))
            for name, measure in self._measures.items()
        ]

    def blame(self) -> str:
        """Say in which layer a fold is wrong: the first that is off by more than its bound, or else the worst."""
        for name, measure in self._measures.items():
            for miss in measure.misses():
                return f"; the first layer that is off is {self._layers[name].node!r}, value {name!r}{miss}"
        if not self._measures:
            return ""
        name = max(self._measures, key=lambda name: self._measures[name].excess)
        worst = f"{self._layers[name].node!r}, value {name!r}{self._measures[name]}"
        return f"; no layer by itself is off by more than its bound, the worst is {worst}"


def expose(path: Path, copy: Path, values: Iterable[str]) -> None:
    """Write a copy of a model that has more values among its outputs.

    Args:
        path: The model.
        copy: Where to write, in a directory that holds nothing else.
        values: The names of values of its main graph.

    Raises:
        OSError: The copy cannot be written.
    """
    graph.copy(path, copy)
    there = {value.name for value in graph.load(path).graph.outputs}
    more = onnx.ModelProto()
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in there)
    with copy.open("ab") as file:
        file.write(more.SerializeToString())


def thinned(array: Array) -> Array:
    """Return the values of a layer, of a large one those at every k-th place of its third and later axes."""
    spatial = array.ndim - 2
    if array.size <= MOST_ELEMENTS or spatial < 1:
        return array
    step = math.ceil((array.size / MOST_ELEMENTS) ** (1 / spatial))
    return array[(slice(None), slice(None), *[slice(None, None, step)] * spatial)].copy()


def portions(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield names in portions of few elements together; one that has more is a portion by itself.

    Args:
        sizes: How many elements each has.
    """
    portion: list[str] = []
    total = 0
    for name, size in sizes.items():
        total += size
        if portion and total > MOST_FETCHED:
            yield portion
            portion, total = [], size
        portion.append(name)
    if portion:
        yield portion
