"""One batch norm of a file, found by a name, with the numbers that it holds."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normserve_models import graph
from normserve_models.constants import Constants
from normserve_models.legality import Reason, StaysError
from normserve_models.rules.elementwise import DEFAULT_EPSILON

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

    from normserve_models.kernels import Array
    from normserve_models.report import Norm

PARAMETERS = ("scale", "shift", "mean", "variance")
SUFFIX = ".weight"  # of what PyTorch calls the scale of a module
MOST_NAMED = 5


class UnknownNormError(ValueError):
    """No batch norm has that name; the message tells which come close."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a batch norm.

    Attributes:
        role: One of `PARAMETERS`.
        name: Of the value that holds it.
        low: The smallest element; None where it is no constant.
        high: The largest element; None likewise.
    """

    role: str
    name: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Described:
    """A batch norm as the file has it.

    Attributes:
        index: Its place in the report.
        name: What the report calls it.
        output: The name of its first output; empty where no node of the file has its name, because a function holds it.
        channels: How many it has; None where no parameter is a constant.
        epsilon: What is added to the variance; None where it is not written as a batch norm.
        parameters: Those that it has, in the order of `PARAMETERS`.
    """

    index: int
    name: str
    output: str = ""
    channels: int | None = None
    epsilon: float | None = None
    parameters: Sequence[Parameter] = ()


def find(model: ir.Model, norms: Sequence[Norm], name: str) -> list[Described]:
    """Return the batch norms that a name stands for.

    Args:
        model: The model, not folded.
        norms: What a fold of it reports.
        name: Of a node, or else of its output, or else of its scale, with or without ".weight".

    Returns:
        At least one; several where they share what the name stands for.

    Raises:
        UnknownNormError: There is none.
    """
    nodes = _nodes(model, norms)
    named = [([norm.name], _outputs(node), _scales(norm, node)) for norm, node in zip(norms, nodes, strict=True)]
    for kind in range(3):
        found = [index for index, names in enumerate(named) if name in names[kind]]
        if found:
            constants = Constants(graph.opsets(model))
            return [_described(index, norms[index], nodes[index], constants) for index in found]
    known = [known for names, outputs, scales in named for known in (*scales[-1:], *names, *outputs)]
    raise UnknownNormError(f"no batch norm is called {name!r}{_hint(name, list(dict.fromkeys(known)))}")


def _nodes(model: ir.Model, norms: Sequence[Norm]) -> list[ir.Node | None]:
    """Return the node of each; names may occur more than once, in the same order."""
    labelled: dict[str, list[ir.Node]] = {}
    for node in model.graph.all_nodes():
        labelled.setdefault(graph.label(node), []).append(node)
    return [labelled[norm.name].pop(0) if labelled.get(norm.name) else None for norm in norms]


def _outputs(node: ir.Node | None) -> list[str]:
    return [] if node is None else [str(node.outputs[0].name)]


def _scales(norm: Norm, node: ir.Node | None) -> list[str]:
    given = node.inputs[1] if node is not None and node.op_type == graph.BATCH_NORM and len(node.inputs) > 1 else None
    name = norm.scale if given is None else str(given.name)
    return list(dict.fromkeys((name, name.removesuffix(SUFFIX)))) if name else []


def explanation(reason: str | None) -> str:
    """Return in a sentence what a report's reason means; empty for a code that is not one of `legality.Reason`."""
    return next((known.explanation for known in Reason if known.value == reason), "")


def _hint(name: str, known: list[str]) -> str:
    if not known:
        return ": the file holds no batch norm"
    part = [other for other in known if name and name.lower() in other.lower()]
    close = list(dict.fromkeys([*part, *difflib.get_close_matches(name, known, MOST_NAMED)]))[:MOST_NAMED]
    if close:
        return f", did you mean {_listed(close)}?"
    return f"; there are {_listed(known[:MOST_NAMED])}{' and others' * (len(known) > MOST_NAMED)}"


def _listed(names: list[str]) -> str:
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last


def _described(index: int, norm: Norm, node: ir.Node | None, constants: Constants) -> Described:
    if node is None:
        return Described(index, norm.name)
    output = str(node.outputs[0].name)
    if node.op_type != graph.BATCH_NORM:
        return Described(index, norm.name, output)
    read = list(_read(node, constants))
    sizes = [array.size for _, _, array in read if array is not None]
    parameters = [Parameter(role, name, *_range(array)) for role, name, array in read]
    epsilon = float(np.float32(node.attributes.get_float("epsilon", DEFAULT_EPSILON)))
    return Described(index, norm.name, output, sizes[0] if sizes else None, epsilon, parameters)


def _read(node: ir.Node, constants: Constants) -> Iterator[tuple[str, str, Array | None]]:
    for role, value in zip(PARAMETERS, node.inputs[1:], strict=False):
        if value is None:
            continue
        try:
            array = constants.read(value)
        except StaysError:
            array = None
        yield role, str(value.name), array


def _range(array: Array | None) -> tuple[float | None, float | None]:
    if array is None or not array.size:
        return None, None
    return float(array.min()), float(array.max())
