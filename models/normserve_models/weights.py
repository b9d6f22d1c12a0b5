"""The weight of a layer, which a fold scales: numbers, or integers with a scale that a DequantizeLinear node applies.

A quantized weight is q -> (q - zero_point) * scale, per tensor or per slice of one axis. Scaling its slices scales `scale`. A
negative factor goes into the integers, because runtimes take quantization scales to be positive: q is mirrored at its zero
point, or, where that leaves the type, both are complemented (~q - ~z = z - q). A factor of 0 makes q the zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from normserve_models.graph import OWN_DOMAINS
from normserve_models.legality import Reason, StaysError, named

if TYPE_CHECKING:
    import onnx_ir as ir

    from normserve_models.affine import F64
    from normserve_models.constants import Constants

FIRST_PER_AXIS_OPSET = 13


@dataclass(frozen=True, eq=False)
class Dense:
    """Numbers.

    Attributes:
        values: float64, of the shape of the weight.
    """

    values: F64

    def scaled(self, factors: F64) -> Dense:
        """Return the weight times `factors`, which broadcast against it."""
        return Dense(self.values * factors)


@dataclass(frozen=True, eq=False)
class Quantized:
    """Integers, and what makes numbers of them.

    Attributes:
        node: The DequantizeLinear node; what is written is a copy of it.
        integers: What it reads, of the shape of the weight.
        scale: float64 [C] along `axis`, or [] for the whole.
        zero_point: Of the type of `integers`, of the shape of `scale`.
        axis: The axis of the weight that `scale` is along.
    """

    node: ir.Node
    integers: np.ndarray[Any, Any]
    scale: F64
    zero_point: np.ndarray[Any, Any]
    axis: int

    @property
    def values(self) -> F64:
        """The weight in float64."""
        scale, zero_point = (self._along(array.astype(np.float64)) for array in (self.scale, self.zero_point))
        values: F64 = (self.integers.astype(np.float64) - zero_point) * scale
        return values

    def scaled(self, factors: F64) -> Quantized:
        """Return the weight times `factors`, which broadcast against it.

        Raises:
            StaysError: They differ along another axis than the scale.
        """
        axis = self._varying(factors)
        flat = np.broadcast_to(factors.reshape(-1), self.integers.shape[axis])
        wide = self._per_axis(axis)
        integers, zero_point = wide._signed(flat)
        return Quantized(self.node, integers, wide.scale * np.where(flat == 0, 1.0, np.abs(flat)), zero_point, axis)

    def _varying(self, factors: F64) -> int:
        varying = [axis for axis, size in enumerate(factors.shape) if size > 1]
        own = self.axis if self.scale.ndim else None
        axis = varying[0] if varying else (own or 0)
        if len(varying) > 1 or (own is not None and own != axis):
            raise StaysError(Reason.AXIS, f"{named(self.node)} has its scales along axis {own}, wanted along {varying}")
        return axis

    def _per_axis(self, axis: int) -> Quantized:
        size = self.integers.shape[axis]
        scale, zero_point = (np.broadcast_to(array, size).copy() for array in (self.scale, self.zero_point))
        return Quantized(self.node, self.integers, scale, zero_point, axis)

    def _along(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array.reshape([-1 if axis == self.axis else 1 for axis in range(self.integers.ndim)]) if array.ndim else array

    def _signed(self, factors: F64) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return integers and zero points of the sign of the factors."""
        zero_point = self._along(self.zero_point.astype(np.int64))
        mirrored = zero_point + self._along(np.sign(factors).astype(np.int64)) * (self.integers.astype(np.int64) - zero_point)
        limits = np.iinfo(self.integers.dtype)
        slices = tuple(axis for axis in range(mirrored.ndim) if axis != self.axis)
        over = ((mirrored < limits.min) | (mirrored > limits.max)).any(axis=slices)
        integers = np.where(self._along(over), ~self.integers, mirrored.astype(self.integers.dtype))
        return integers, np.where(over, ~self.zero_point, self.zero_point)


Weight = Dense | Quantized


def read(node: ir.Node, index: int, constants: Constants) -> Weight:
    """Return an input of `node` as a weight.

    Raises:
        StaysError: It is overridable, computed at run time, or of a type that no fold can scale.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.domain not in OWN_DOMAINS:
        return Dense(constants.require(node, index))
    return _quantized(producer, constants)


def _quantized(node: ir.Node, constants: Constants) -> Quantized:
    integers = None if node.inputs[0] is None else constants.read(node.inputs[0])
    scale = constants.require(node, 1)
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if integers is None or integers.dtype not in {np.dtype(np.int8), np.dtype(np.uint8)} or scale.ndim > 1:
        raise StaysError(Reason.DTYPE, f"{named(node)} reads no constant of int8 or uint8, or has its scales in blocks")
    wanted = node.attributes.get_int("output_dtype", 0)
    if wanted and wanted != constants.dtype(node.inputs[1]):
        raise StaysError(Reason.DTYPE, f"{named(node)} gives another type than that of its scale")
    if constants.opset < FIRST_PER_AXIS_OPSET:
        raise StaysError(
            Reason.OPSET, f"a scale per channel needs opset {FIRST_PER_AXIS_OPSET}, the file has {constants.opset}"
        )
    zero_point = np.zeros(scale.shape, integers.dtype) if given is None else constants.read(given)
    if zero_point is None:
        raise StaysError(Reason.BLOCKED, f"the zero point of {named(node)} is computed at run time")
    axis = node.attributes.get_int("axis", 1) % max(1, integers.ndim)
    shape = () if scale.size == 1 else scale.shape
    return Quantized(node, integers, scale.reshape(shape), zero_point.reshape(shape), axis)
