"""The constants of a graph, exact in float64, and what the fold has made of them so far.

A constant is an initializer that no caller can override, a Constant node, or what a few pure operators make of those:
exporters like to write a bias as Expand(CastLike(0, x), Shape(w)) and a weight as Transpose(w).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from normserve_models.legality import Reason, StaysError, named

if TYPE_CHECKING:
    from normserve_models.affine import F64

FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)

# They move and select values, and round nothing but where the file says so.
PURE = frozenset(
    [
        *("Cast", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity"),
        *("Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"),
    ]
)
DEEPEST = 32  # exporters need three or four in a row; a hostile chain must not exhaust the stack


def rounded(array: F64, dtype: ir.DataType) -> np.ndarray[Any, Any]:
    """Return float64 values rounded once, to nearest, in a type of FLOATS."""
    if dtype is not ir.DataType.BFLOAT16:
        return array.astype(dtype.numpy())
    # The cast to bfloat16 goes through float32. Rounded to odd there, the second rounding is as good as one alone
    # (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd").
    single = array.astype(np.float32)
    bits = single.view(np.uint32)
    bits -= (np.abs(single) > np.abs(array)).astype(np.uint32)
    bits |= (single != array).astype(np.uint32)
    return single.astype(dtype.numpy())


def fits(array: F64, dtype: ir.DataType) -> bool:
    """Tell whether all values are finite in a type of FLOATS."""
    largest = float(ml_dtypes.finfo(dtype.numpy()).max)  # type: ignore[no-untyped-call] # untyped upstream
    return array.size == 0 or (float(array.max()) <= largest and float(array.min()) >= -largest)


def _static_shape(node: ir.Node) -> np.ndarray[Any, Any] | None:
    """Return what a Shape node gives where the dimensions that it asks for do not change from run to run."""
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    if shape is None:
        return None
    asked = list(shape)[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)]
    return np.array(asked, np.int64) if all(isinstance(size, int) for size in asked) else None


class Constants:
    """Reads constants of one model, and holds the exact float64 values of those that the fold has replaced."""

    def __init__(self, opsets: dict[str, int]) -> None:
        self.exact: dict[ir.Value, F64] = {}
        self._opsets = opsets
        self._known: dict[ir.Value, np.ndarray[Any, Any] | None] = {}

    def require(self, node: ir.Node, index: int, otherwise: Reason = Reason.BLOCKED) -> F64:
        """Return an input of `node` in float64.

        Raises:
            StaysError: It is overridable, computed at run time (`otherwise`), or not of a float type.
        """
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            raise StaysError(otherwise, f"{named(node)} has no input {index}")
        if value in self.exact:
            return self.exact[value]
        array = self.read(value)
        if array is None:
            raise StaysError(otherwise, f"{value.name!r}, input {index} of {named(node)}, is computed at run time")
        if self.dtype(value) not in FLOATS:
            raise StaysError(Reason.DTYPE, f"{value.name!r}, input {index} of {named(node)}, is {array.dtype}")
        return array.astype(np.float64)

    def dtype(self, value: ir.Value | None) -> ir.DataType:
        """Return the type of a constant, in the file."""
        if value is not None and value not in self.exact:
            array = self.read(value)
            if array is not None:
                return ir.DataType.from_numpy(array.dtype)
        dtype = value.dtype if value is not None else None
        return dtype or ir.DataType.UNDEFINED

    def read(self, value: ir.Value, depth: int = 0) -> np.ndarray[Any, Any] | None:
        """Return a constant as the file has it, or None where it is computed at run time.

        Raises:
            StaysError: It is, or is made from, an initializer that a caller may override.
        """
        if value.is_initializer():
            if value.is_graph_input():
                raise StaysError(Reason.OVERRIDABLE, f"{value.name!r} is a graph input with a default")
            return None if value.const_value is None else value.const_value.numpy()
        if depth > DEEPEST:
            return None
        if value not in self._known:
            self._known[value] = self._compute(value, depth + 1)
        return self._known[value]

    def _compute(self, value: ir.Value, depth: int) -> np.ndarray[Any, Any] | None:
        node = value.producer()
        if node is None or node.domain not in {"", "ai.onnx"}:
            return None
        if node.op_type == "Constant":
            tensor = ir.convenience.get_const_tensor(value)
            return None if tensor is None else tensor.numpy()
        if node.op_type == "CastLike":
            return self._cast_like(node, depth)
        if node.op_type == "Shape" and (static := _static_shape(node)) is not None:
            return static
        return self._evaluate(node, depth) if node.op_type in PURE else None

    def _cast_like(self, node: ir.Node, depth: int) -> np.ndarray[Any, Any] | None:
        given, like = node.inputs
        array = None if given is None else self.read(given, depth)
        if array is None or like is None or like.dtype is None:
            return None  # the second input may come at run time: only its type counts
        return array.astype(like.dtype.numpy())

    def _evaluate(self, node: ir.Node, depth: int) -> np.ndarray[Any, Any] | None:
        inputs = [None if value is None else self.read(value, depth) for value in node.inputs]
        if any(array is None and value is not None for array, value in zip(inputs, node.inputs, strict=True)):
            return None
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - a fifth of a second, for few files

        evaluator = ReferenceEvaluator(ir.to_proto(node), opsets=self._opsets)
        feeds = {str(value.name): array for value, array in zip(node.inputs, inputs, strict=True) if value is not None}
        [result] = evaluator.run(None, dict(feeds))
        return np.asarray(result)
