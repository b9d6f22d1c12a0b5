"""Networks of a few nodes, as files."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def save(path, nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(nodes, "test", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def tensor(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def linear(path: Path) -> Path:
    """y = x @ WEIGHT, and z = -x, of x [batch, 3]."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    outputs = [tensor("y", ["batch", 4]), tensor("z", ["batch", 3])]
    return save(path, nodes, [tensor("x", ["batch", 3])], outputs, [("w", WEIGHT)])


def positives(path: Path) -> Path:
    """The elements of x [batch] that are > 0: nobody knows how many."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["p"]),
        helper.make_node("Compress", ["x", "p"], ["y"], axis=0),
    ]
    zero = np.array(0, np.float32)
    return save(path, nodes, [tensor("x", ["batch"])], [tensor("y", ["some"])], [("zero", zero)])


def table(path: Path) -> Path:
    """t[x] of x [batch], which fails where x is not 0 or 1."""
    node = helper.make_node("Gather", ["t", "x"], ["y"])
    values = np.array([1, 2], np.float32)
    return save(path, [node], [tensor("x", ["batch"], TensorProto.INT64)], [tensor("y", ["batch"])], [("t", values)])
