"""The judge that every conversion to 16 bits has to pass in tests."""

# ruff: noqa: S101 - a judge asserts

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import numpy_helper

from normserve_models import precision
from normserve_models.measure import relative_error
from normserve_models.testing import draw_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normserve_models.affine import F64
    from normserve_models.kernels import Array

HALF, BRAIN = ir.DataType.FLOAT16, ir.DataType.BFLOAT16


def converted(proto: onnx.ModelProto, dtype: ir.DataType = HALF, exact: Mapping[str, F64] | None = None) -> onnx.ModelProto:
    """Convert a copy of `proto`, and hold it to what every conversion has to keep.

    Args:
        proto: The model.
        dtype: FLOAT16 or BFLOAT16.
        exact: The float64 values of initializers, by name.

    Raises:
        AssertionError: The result is invalid, has another interface, or changes when it is converted again.
    """
    model = ir.from_proto(proto)
    precision.convert(model, dtype, {model.graph.initializers[name]: array for name, array in (exact or {}).items()})
    result: onnx.ModelProto = ir.to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    for one, other in ((proto.graph.input, result.graph.input), (proto.graph.output, result.graph.output)):
        assert [(value.name, value.type) for value in one] == [(value.name, value.type) for value in other]
    again = ir.from_proto(result)
    assert precision.convert(again, dtype, {}).constants == 0, "converting twice converts more"
    assert ir.to_proto(again).SerializeToString() == result.SerializeToString(), "converting twice changes the file"
    return result


def assert_same_answers(
    before: onnx.ModelProto, after: onnx.ModelProto, batch: Mapping[str, Array] | None = None, bound: float = 8e-3
) -> None:
    """Run both in onnxruntime, and raise AssertionError where an output is off by more, or of another type."""
    batch = draw_inputs(before) if batch is None else batch
    for got, wanted in zip(run(after, batch), run(before, batch), strict=True):
        assert got.dtype == wanted.dtype
        reference = wanted.astype(np.float64) if wanted.dtype.kind == "f" else wanted
        error = relative_error(got, reference)
        assert error <= bound, f"off by {error}, allowed is {bound}"


def run(proto: onnx.ModelProto, batch: Mapping[str, Array]) -> list[Any]:
    """Return the outputs that onnxruntime gives on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(batch)))


def constants(proto: onnx.ModelProto) -> dict[str, Array]:
    """Return the initializers of the main graph."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def op_types(body: onnx.GraphProto) -> list[str]:
    """Return the operators of a graph in their order."""
    return [node.op_type for node in body.node]


def types(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of the values of the main graph, as onnx infers them anew."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
