"""Put the normalization of the input, y = (x - mean) / std, in front of a graph, so that callers send what they have.

Mean and std are in the units of what is sent: for bytes from 0 to 255, those of ImageNet are 123.675, 116.28, 103.53 and
58.395, 57.12, 57.375.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from normserve_models import wiring
from normserve_models.constants import FLOATS, fits, rounded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from normserve_models.affine import F64

CHANNEL_AXIS = 1


class NormalizationError(ValueError):
    """The normalization does not fit the model; the message names the input or the option, what was wanted and what came."""


@dataclass(frozen=True)
class Normalization:
    """y = (x - mean) / std, in the units of what callers send.

    Attributes:
        mean: One value a channel, or one for all.
        std: One value a channel, or one for all; greater than 0.
        dtype: The type that callers send; None for that which the file has.
    """

    mean: Sequence[float]
    std: Sequence[float]
    dtype: ir.DataType | None = None

    def insert(self, model: ir.Model) -> Mapping[ir.Value, F64]:
        """Put it in front of the only input of `model`; as `insert` below."""
        return insert(model, self.mean, self.std, dtype=self.dtype)


def insert(
    model: ir.Model,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    input_name: str | None = None,
    dtype: ir.DataType | None = None,
) -> Mapping[ir.Value, F64]:
    """Put Sub and Div, with a constant a channel, in front of an input, in place; and a Cast in front of them.

    The input keeps its name, its place and its shape. Where `dtype` is given it changes its type to that.

    Args:
        model: The model. Its input is of a float type, and of rank 2 or more with the channels on axis 1.
        mean: One value a channel, or one for all; finite.
        std: One value a channel, or one for all; finite and greater than 0.
        input_name: Which input; may be left out where there is one only.
        dtype: The type that callers send; None for that which the file has.

    Returns:
        The two new constants with their values in float64, which the file holds rounded to the type of the input.

    Raises:
        NormalizationError: The input is not known, or mean, std or dtype do not fit it. The model is then as it was.
    """
    value = _input(model, input_name)
    channels = _channels(value)
    means, stds = _per_channel("mean", mean, channels), _per_channel("std", std, channels)
    _require_alike(means, stds)
    _require_values(value, means, stds)
    if dtype is not None and not (dtype.is_integer() or dtype.is_floating_point()):
        raise NormalizationError(f"the input {value.name!r} cannot be of type {dtype.name.lower()}, wanted a type of numbers")
    return _rewrite(model, value, {"mean": means, "std": stds}, dtype)


def _input(model: ir.Model, name: str | None) -> ir.Value:
    inputs = {str(value.name): value for value in model.graph.inputs if not value.is_initializer()}
    listed = ", ".join(map(repr, inputs)) or "none"
    if name is None and len(inputs) != 1:
        raise NormalizationError(f"the model has the inputs {listed}: say which one is to be normalized")
    value = next(iter(inputs.values())) if name is None else inputs.get(name)
    if value is None:
        raise NormalizationError(f"the model has no input {name!r}, it has {listed}")
    if value.dtype not in FLOATS or not isinstance(value.type, ir.TensorType):
        kind = "of unknown type" if value.dtype is None else value.dtype.name.lower()
        raise NormalizationError(f"the input {value.name!r} is {kind}, wanted a tensor of floats")
    if value.is_graph_output():
        raise NormalizationError(f"the input {value.name!r} is an output too, and would not be the same any more")
    return value


def _channels(value: ir.Value) -> int | None:
    """Return how many channels an input has, or None where that is free."""
    if value.shape is None:
        raise NormalizationError(f"the rank of the input {value.name!r} is not known, wanted 2 or more")
    if value.shape.rank() < 2:
        raise NormalizationError(f"the input {value.name!r} has rank {value.shape.rank()}, wanted 2 or more")
    size = value.shape[CHANNEL_AXIS]
    return size if isinstance(size, int) else None


def _per_channel(name: str, values: Sequence[float], channels: int | None) -> F64:
    array = np.array(values, np.float64)
    if channels is not None and array.size == 1:
        array = np.repeat(array, channels)
    if array.ndim != 1 or array.size == 0 or array.size != (channels or array.size):
        raise NormalizationError(f"{name} has {array.size} values, wanted 1 or {channels or 'one a channel'}")
    return array


def _require_alike(mean: F64, std: F64) -> None:
    if mean.size != std.size and 1 not in {mean.size, std.size}:
        raise NormalizationError(f"mean has {mean.size} values and std has {std.size}, wanted as many")


def _require_values(value: ir.Value, mean: F64, std: F64) -> None:
    if not np.isfinite(mean).all():
        raise NormalizationError(f"mean holds {mean[~np.isfinite(mean)][0]}, wanted finite numbers")
    wrong = ~(np.isfinite(std) & (std > 0))
    if wrong.any():
        raise NormalizationError(f"std holds {std[wrong][0]}, wanted finite numbers greater than 0")
    kind = value.dtype
    assert kind is not None  # noqa: S101 - _input has looked
    for name, array in (("mean", mean), ("std", std)):
        if not fits(array, kind) or (rounded(array, kind)[array != 0] == 0).any():
            raise NormalizationError(f"{name} does not fit {kind.name.lower()}, the type of the input {value.name!r}")


def _rewrite(model: ir.Model, value: ir.Value, arrays: dict[str, F64], dtype: ir.DataType | None) -> dict[ir.Value, F64]:
    uses = value.uses()
    chain = _Chain(model, value)
    if dtype is not None and dtype is not value.dtype:
        chain.add("Cast", "cast")
    exact = dict(chain.constant(name, array) for name, array in arrays.items())
    mean, std = exact
    chain.add("Sub", "centered", mean)
    chain.add("Div", "normalized", std)
    for use in uses:
        use.node.replace_input_with(use.idx, chain.last)
    value.type = ir.TensorType(dtype or chain.dtype)
    return exact


class _Chain:
    """Nodes in front of a graph, one behind the other, from one of its inputs on."""

    def __init__(self, model: ir.Model, value: ir.Value) -> None:
        assert value.dtype is not None  # noqa: S101 - _input has looked
        assert value.shape is not None  # noqa: S101 - _channels has looked
        self.last = value
        self.dtype = value.dtype
        self._graph = model.graph
        self._names = wiring.Names(model)
        self._stem = value.name
        self._shape = value.shape
        self._first = next(iter(model.graph), None)

    def constant(self, name: str, array: F64) -> tuple[ir.Value, F64]:
        """Add an initializer of one value a channel; return it and its values in float64."""
        shape = [1] * self._shape.rank()
        shape[CHANNEL_AXIS] = array.size
        exact = array.reshape(shape)
        value = ir.Value(name=self._names.fresh(f"{self._stem}.{name}"), type=ir.TensorType(self.dtype), shape=ir.Shape(shape))
        value.const_value = ir.Tensor(rounded(exact, self.dtype), name=value.name)
        self._graph.register_initializer(value)
        return value, exact

    def add(self, op_type: str, name: str, *operands: ir.Value) -> None:
        """Add a node that takes what the last one gives."""
        name = self._names.fresh(f"{self._stem}.{name}")
        result = ir.Value(name=name, type=ir.TensorType(self.dtype), shape=self._shape)
        attributes = [ir.AttrInt64("to", int(self.dtype))] if op_type == "Cast" else []
        node = ir.Node("", op_type, [self.last, *operands], attributes, outputs=[result], name=name)
        if self._first is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._first, node)
        self.last = result
