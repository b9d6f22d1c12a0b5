"""Convert a model to float16 or bfloat16: its interface stays as it was, and each constant is rounded once.

Which values become 16 bits wide is for lowering.py to say, and for the schemas of the operators.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx_ir as ir

from normserve_models import value_types
from normserve_models.admission import WIDE, Want, is_wide
from normserve_models.constants import fits, rounded
from normserve_models.lowering import Plan, PrecisionError
from normserve_models.opset import raise_for_bfloat16
from normserve_models.value_types import TYPE_ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normserve_models.affine import F64

__all__ = ["TARGETS", "Conversion", "PrecisionError", "convert"]

TARGETS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass
class Conversion:
    """What a conversion has done.

    Attributes:
        constants: How many are of the new type now.
        zeroed: How many of their values were not 0 and are.
        subnormal: How many of their values are below the smallest normal number of the type, and so have fewer digits.
        wide: The operators that stay as they are, at least in part, each with how many there are.
    """

    constants: int = 0
    zeroed: int = 0
    subnormal: int = 0
    wide: Counter[str] = field(default_factory=Counter)


def convert(model: ir.Model, dtype: ir.DataType, exact: Mapping[ir.Value, F64]) -> Conversion:
    """Convert the floats of a model, in place; inputs and outputs keep their names and types.

    Model-local functions are inlined. A file for bfloat16 is raised to opset 22, the first in which Conv and pooling admit it,
    where nothing but types changes on the way. A lone number that is the largest or the lowest of its type, as the bound of a
    Clip or the fill of a mask, becomes that of the new one.

    Args:
        model: The model, its nodes in topological order.
        dtype: FLOAT16 or BFLOAT16.
        exact: The float64 values of those initializers of which the file holds rounded ones; such a constant is rounded from
            them, whatever type it ends in.

    Returns:
        What was done.

    Raises:
        PrecisionError: A constant is not finite in `dtype`, the type of a value is not known, or a sequence would have to be
            cast. The model is then as it was, but for types that were inferred and functions that were inlined.
    """
    if dtype not in TARGETS:
        raise PrecisionError(f"cannot convert to {dtype.name.lower()}, wanted float16 or bfloat16")
    if _holds_wide(model):
        return _convert(model, dtype, exact)
    _refresh(exact)
    return Conversion()


def _refresh(exact: Mapping[ir.Value, F64]) -> None:
    """Round constants that stay of the type that they have."""
    for value, array in exact.items():
        if value.is_initializer() and value.dtype is not None:
            with np.errstate(all="ignore"):
                value.const_value = ir.Tensor(rounded(array, value.dtype), name=value.name)


def _holds_wide(model: ir.Model) -> bool:
    values = itertools.chain.from_iterable((*body.inputs, *body.initializers.values()) for body in model.graphs())
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    attributes = itertools.chain.from_iterable(node.attributes.values() for body in bodies for node in body.all_nodes())
    return any(map(is_wide, values)) or any(map(_is_wide, attributes))


def _is_wide(attribute: ir.Attr) -> bool:
    if attribute.type is ir.AttributeType.TENSOR:
        return attribute.as_tensor().dtype in WIDE
    named = attribute.name in TYPE_ATTRIBUTES and not attribute.is_ref() and attribute.type is ir.AttributeType.INT
    return attribute.name in {"value_float", "value_floats"} or (named and attribute.as_int() in WIDE)


def _convert(model: ir.Model, dtype: ir.DataType, exact: Mapping[ir.Value, F64]) -> Conversion:
    if model.functions:
        from onnx_ir.passes import common  # noqa: PLC0415 - for few files

        common.InlinePass()(model)
    value_types.infer(model)
    raise_for_bfloat16(model, dtype)
    plan = Plan(model, dtype)
    done = Conversion(wide=_wide(plan))
    plan.apply({value: _lowered(value, dtype, exact.get(value), done) for value in plan.fills()})
    _refresh({value: array for value, array in exact.items() if not plan.is_low(value)})
    return done


def _wide(plan: Plan) -> Counter[str]:
    every = ((node, (*wants.inputs.values(), *wants.outputs.values())) for node, wants in plan.wants.items())
    return Counter(node.op_type for node, wants in every if Want.WIDE in wants)


def _lowered(value: ir.Value, dtype: ir.DataType, exact: F64 | None, done: Conversion) -> ir.TensorProtocol:
    """Return a constant in the new type, and count what it has lost."""
    limits = ml_dtypes.finfo(dtype.numpy())  # type: ignore[no-untyped-call] # untyped upstream
    array = _stored(value, float(limits.max)) if exact is None else exact
    _require_finite(value, array, float(limits.max), dtype)
    with np.errstate(all="ignore"):  # infinities and NaN stay what they are
        low = rounded(array, dtype)
    done.constants += 1
    done.zeroed += int(np.count_nonzero((low == 0) & (array != 0)))
    done.subnormal += int(np.count_nonzero((low != 0) & (np.abs(low.astype(np.float64)) < float(limits.tiny))))
    return ir.Tensor(low, name=value.name)


def _stored(value: ir.Value, largest: float) -> F64:
    tensor = _tensor(value)
    array = tensor.numpy()
    wide = array.astype(np.float64)
    if array.size == 1 and abs(wide.item()) == float(np.finfo(array.dtype).max):
        return np.copysign(largest, wide)
    return wide


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    node = value.producer()
    if node is not None and node.op_type == "ConstantOfShape":
        attribute = node.attributes.get("value")
        return ir.Tensor(np.zeros(1, np.float32)) if attribute is None else attribute.as_tensor()
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None  # noqa: S101 - the plan lists constants only
    return tensor


def _require_finite(value: ir.Value, array: F64, largest: float, dtype: ir.DataType) -> None:
    finite = array[np.isfinite(array)]
    if not fits(finite, dtype):
        worst = finite[np.abs(finite).argmax()]
        raise PrecisionError(f"the constant {value.name!r} holds {worst:.6g}, and {dtype.name.lower()} goes to {largest:.6g}")
