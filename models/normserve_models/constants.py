"""The constants of a graph, exact in float64, and what the fold has made of them so far.

A constant is an initializer that no caller can override, a Constant node, or what pure operators make of those: exporters
like to write a bias as Expand(CastLike(0, x), Shape(w)), a weight as Transpose(w), and a parametrized weight as its formula.
Arithmetic is done in float64, whatever the type in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from normserve_models.graph import OWN_DOMAINS
from normserve_models.kernels import KERNELS
from normserve_models.legality import Reason, StaysError, named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normserve_models.affine import F64

FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)

# What constants are made of on their way to a node: values moved and selected, and the arithmetic of parametrized weights.
PURE = frozenset(
    [
        *("CastLike", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity", "Tile"),
        *("Reshape", "Shape", "Size", "Slice", "Squeeze", "Transpose", "Unsqueeze", "Where", "Pad"),
        *("Abs", "Add", "Div", "Exp", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"),
        *("Clip", "Gemm", "Sigmoid", "Softplus", "Tanh", "DequantizeLinear"),
        *("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
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


@dataclass(frozen=True, eq=False)
class Known:
    """A constant: its values, floats in float64 where they were computed, and the type that the file gives them."""

    array: np.ndarray[Any, Any]
    dtype: ir.DataType


class Constants:
    """Reads constants of one model, and holds the exact float64 values of those that the fold has replaced."""

    def __init__(self, opsets: dict[str, int]) -> None:
        self.exact: dict[ir.Value, F64] = {}
        self.opset = opsets.get("", 1)
        self._opsets = opsets
        self._known: dict[ir.Value, Known | None] = {}

    def require(self, node: ir.Node, index: int, otherwise: Reason = Reason.BLOCKED) -> F64:
        """Return an input of `node` in float64.

        Raises:
            StaysError: It is overridable, computed at run time (`otherwise`), or not of a float type.
        """
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            raise StaysError(otherwise, f"{named(node)} has no input {index}")
        array = self.read(value)
        if array is None:
            raise StaysError(otherwise, f"{value.name!r}, input {index} of {named(node)}, is computed at run time")
        if self.dtype(value) not in FLOATS:
            raise StaysError(Reason.DTYPE, f"{value.name!r}, input {index} of {named(node)}, is {array.dtype}")
        return array.astype(np.float64)

    def bias(self, node: ir.Node, index: int) -> F64:
        """Return an optional input of `node` in float64, 0 where it is absent; raises as `require` does."""
        absent = index >= len(node.inputs) or node.inputs[index] is None
        return np.zeros(()) if absent else self.require(node, index)

    def dtype(self, value: ir.Value | None) -> ir.DataType:
        """Return the type of a constant, in the file."""
        known = None if value is None or value in self.exact else self._look_up(value, 0)
        if known is not None:
            return known.dtype
        return ir.DataType.UNDEFINED if value is None else value.dtype or ir.DataType.UNDEFINED

    def read(self, value: ir.Value | None) -> np.ndarray[Any, Any] | None:
        """Return a constant, or None where it is computed at run time.

        Raises:
            StaysError: It is, or is made from, an initializer that a caller may override.
        """
        if value is None:
            return None
        if value in self.exact:
            return self.exact[value]
        known = self._look_up(value, 0)
        return None if known is None else known.array

    def evaluate(self, node: ir.Node, inputs: Sequence[np.ndarray[Any, Any] | None]) -> np.ndarray[Any, Any]:
        """Return the first output of a node in float64.

        Raises:
            StaysError: The reference cannot evaluate it.
        """
        kernel = KERNELS.get(node.op_type)
        try:
            found = None if kernel is None else kernel(node, list(inputs))
            return np.asarray(self._by_onnx(node, inputs) if found is None else found)
        except Exception as error:  # onnx's reference has gaps, and fails in many ways
            raise StaysError(Reason.BLOCKED, f"{named(node)} cannot be evaluated") from error

    def _look_up(self, value: ir.Value, depth: int) -> Known | None:
        if value.is_initializer():
            if value.is_graph_input():
                raise StaysError(Reason.OVERRIDABLE, f"{value.name!r} is a graph input with a default")
            return None if value.const_value is None else Known(value.const_value.numpy(), value.const_value.dtype)
        if depth > DEEPEST:
            return None
        if value not in self._known:
            self._known[value] = self._compute(value, depth + 1)
        return self._known[value]

    def _compute(self, value: ir.Value, depth: int) -> Known | None:
        node = value.producer()
        if node is None or node.domain not in OWN_DOMAINS or value.index() != 0:
            return None
        if node.op_type == "Constant":
            tensor = ir.convenience.get_const_tensor(value)
            return None if tensor is None else Known(tensor.numpy(), tensor.dtype)
        if node.op_type in {"Cast", "CastLike"}:
            return self._cast(node, depth)
        if node.op_type == "Shape" and (static := _static_shape(node)) is not None:
            return Known(static, ir.DataType.INT64)
        return self._evaluate(node, depth) if node.op_type in PURE else None

    def _cast(self, node: ir.Node, depth: int) -> Known | None:
        given = None if node.inputs[0] is None else self._look_up(node.inputs[0], depth)
        if node.op_type == "Cast":
            target = ir.DataType(node.attributes.get_int("to"))
        else:  # the second input may come at run time: only its type counts
            target = (node.inputs[1].dtype if node.inputs[1] is not None else None) or ir.DataType.UNDEFINED
        if given is None or target in {ir.DataType.UNDEFINED, ir.DataType.STRING} or given.dtype is ir.DataType.STRING:
            return None
        exact = given.array.dtype == np.float64 and target in FLOATS  # rounded here because the file says so
        return Known(rounded(given.array, target) if exact else given.array.astype(target.numpy()), target)

    def _evaluate(self, node: ir.Node, depth: int) -> Known | None:
        known = [None if value is None else self._look_up(value, depth) for value in node.inputs]
        if any(found is None and value is not None for found, value in zip(known, node.inputs, strict=True)):
            return None
        arrays = [None if found is None else _widened(found.array) for found in known]
        try:
            result = self.evaluate(node, arrays)
        except StaysError:
            return None
        floats = [found.dtype for found in known if found is not None and found.dtype in FLOATS]
        if result.dtype == np.float64:
            return Known(result, node.outputs[0].dtype or (floats[0] if floats else ir.DataType.FLOAT))
        return Known(result, ir.DataType.from_numpy(result.dtype))

    def _by_onnx(self, node: ir.Node, inputs: Sequence[np.ndarray[Any, Any] | None]) -> np.ndarray[Any, Any]:
        import onnx  # noqa: PLC0415 - with the next one a fifth of a second, for few files
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

        from normserve_models.reference import widen  # noqa: PLC0415 - likewise

        # Of a node alone, the evaluator would take the newest opset.
        given = [onnx.ValueInfoProto(name=str(value.name)) for value in dict.fromkeys(node.inputs) if value is not None]
        result = onnx.ValueInfoProto(name=str(node.outputs[0].name))
        graph = onnx.helper.make_graph([widen(ir.to_proto(node))], "node", given, [result])
        evaluator = ReferenceEvaluator(graph, opsets=self._opsets)
        feeds = {str(value.name): array for value, array in zip(node.inputs, inputs, strict=False) if value is not None}
        results: Any = evaluator.run(None, dict(feeds))
        return np.asarray(results[0])


def _widened(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(np.float64) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else array
