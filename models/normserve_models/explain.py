"""One batch norm of a file, found by a name, with the numbers that it holds."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normserve_models import graph
from normserve_models.constants import Constants
from normserve_models.legality import Reason, StaysError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from normserve_models.kernels import Array

PARAMETERS = ("scale", "shift", "mean", "variance")
SUFFIX = ".weight"  # of what PyTorch calls the scale of a module
DEFAULT_EPSILON = float(np.float32(1e-5))
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
        index: Its place among the batch norms of the file, and so in the report.
        name: What the report calls it.
        output: The name of its first output.
        channels: How many it has; None where no parameter is a constant.
        epsilon: What is added to the variance.
        parameters: Those that it has, in the order of `PARAMETERS`.
    """

    index: int
    name: str
    output: str
    channels: int | None
    epsilon: float
    parameters: list[Parameter]


def find(model: ir.Model, name: str) -> list[Described]:
    """Return the batch norms that a name stands for.

    Args:
        model: The model, not folded yet.
        name: Of a node, or else of its output, or else of its scale, with or without ".weight".

    Returns:
        At least one; several where they share what the name stands for.

    Raises:
        UnknownNormError: There is none.
    """
    norms = list(enumerate(graph.batch_norms(model)))
    for names in (_node_names, _output_names, _scale_names):
        found = [(index, node) for index, node in norms if name in names(node)]
        if found:
            constants = Constants(graph.opsets(model))
            return [_described(index, node, constants) for index, node in found]
    known = [known for _, node in norms for known in (*_scale_names(node)[-1:], *_node_names(node), *_output_names(node))]
    raise UnknownNormError(f"no batch norm is called {name!r}{_hint(name, list(dict.fromkeys(known)))}")


def explanation(reason: str | None) -> str:
    """Return in a sentence what a report's reason means; empty for a code that is not one of `legality.Reason`."""
    return next((known.explanation for known in Reason if known.value == reason), "")


def _node_names(node: ir.Node) -> list[str]:
    return [graph.label(node)]


def _output_names(node: ir.Node) -> list[str]:
    return [str(node.outputs[0].name)]


def _scale_names(node: ir.Node) -> list[str]:
    scale = node.inputs[1] if len(node.inputs) > 1 else None
    name = "" if scale is None else str(scale.name)
    return list(dict.fromkeys((name, name.removesuffix(SUFFIX)))) if name else []


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


def _described(index: int, node: ir.Node, constants: Constants) -> Described:
    read = list(_read(node, constants))
    sizes = [array.size for _, _, array in read if array is not None]
    parameters = [Parameter(role, name, *_range(array)) for role, name, array in read]
    epsilon = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    return Described(
        index, graph.label(node), str(node.outputs[0].name), sizes[0] if sizes else None, float(np.float32(epsilon)), parameters
    )


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
