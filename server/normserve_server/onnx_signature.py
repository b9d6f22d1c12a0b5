"""What a session takes and gives, read off its file."""

from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from normserve_server.errors import LoadError
from normserve_server.servable import DYNAMIC, Signature, TensorSpec

# onnxruntime's own names of the element types.
DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    "tensor(bfloat16)": "BF16",
}


def read(session: ort.InferenceSession, max_batch_size: int | None, default_max_batch_size: int) -> Signature:
    """Reads a session's signature.

    Args:
        session: the session.
        max_batch_size: most samples in a run, 0 for no batching, None to find out from the file's shapes.
        default_max_batch_size: what is taken where the file has a batch axis and nothing else was said.

    Raises:
        LoadError: the protocol cannot carry a tensor, or the shapes contradict `max_batch_size`.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if max_batch_size is None:
        max_batch_size = default_max_batch_size if _has_batch_axis(inputs, outputs) else 0
    signature = Signature(_specs(inputs), _specs(outputs), max_batch_size)
    _check_batch_axis(signature)
    return signature


def _specs(nodes: Sequence[Any]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(node) for node in nodes)


def _spec(node: Any) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise LoadError(f"'{node.name}' is a {node.type}, which the protocol cannot carry")
    shape = tuple(extent if isinstance(extent, int) else DYNAMIC for extent in node.shape)
    return TensorSpec(node.name, datatype, shape)


def _has_batch_axis(inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Whether one symbol, the same everywhere, names the first extent of every input and output."""
    firsts = {node.shape[0] if node.shape else None for node in (*inputs, *outputs)}
    return bool(inputs) and len(firsts) == 1 and isinstance(firsts.pop(), str)


def _check_batch_axis(signature: Signature) -> None:
    for spec in (*signature.inputs, *signature.outputs) if signature.max_batch_size else ():
        if not spec.shape or spec.shape[0] != DYNAMIC:
            raise LoadError(
                f"max_batch_size is {signature.max_batch_size}, but '{spec.name}' has shape {list(spec.shape)}, "
                f"whose first extent is not dynamic"
            )
