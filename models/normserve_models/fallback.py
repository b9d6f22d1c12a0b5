"""A reference value for an operator that has no implementation in float64: what onnxruntime makes of it in float32.

That is the operator as it will be run, on exact inputs rounded once. Both files are judged against the same value, so the
comparison stays fair; it only says less, because the error of this one operator is in both figures. What is judged so is named
in the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normserve_models.kernels import Array

IR_VERSION = 10  # of opset 22; the operators come from the opsets of the file, whatever this is


def run(node: ir.Node, constants: Mapping[str, Array], feeds: Mapping[str, Array], opsets: Mapping[str, int]) -> list[Array]:
    """Run one node in onnxruntime.

    Args:
        node: The node; what its bodies capture is among its inputs here.
        constants: The inputs that the file fixes, by name; some operators insist on those.
        feeds: The other inputs, by name. Floats of both are rounded to float32.
        opsets: The opset of each domain.

    Returns:
        An array for each output of the node, empty where the output has no name.

    Raises:
        Exception: onnxruntime cannot load or run it.
    """
    narrow = {name: _narrow(array) for name, array in feeds.items()}
    outputs = [str(value.name) for value in node.outputs if value.name]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters comes as an exception
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        _model(node, constants, narrow, opsets).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = dict(zip(outputs, session.run(outputs, narrow), strict=True))
    return [np.asarray(found[str(value.name)]) if value.name else np.zeros(0) for value in node.outputs]


def _narrow(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _model(
    node: ir.Node, constants: Mapping[str, Array], feeds: Mapping[str, Array], opsets: Mapping[str, int]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [ir.to_proto(node)],
        "node",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for name, a in feeds.items()],
        [onnx.ValueInfoProto(name=str(value.name)) for value in node.outputs if value.name],
        [numpy_helper.from_array(_narrow(array), name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
