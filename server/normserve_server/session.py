"""An ONNX file as a servable, on onnxruntime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import get_ident
from typing import Any

import onnxruntime as ort
from normserve_proto.tensors import Array

from normserve_server.binding import Bound, HostBinding, Unbound
from normserve_server.devices import Device
from normserve_server.errors import InternalError, LoadError, ServiceError
from normserve_server.servable import DYNAMIC, Signature, TensorSpec

__all__ = ["DATATYPES", "LoadError", "OnnxSession"]

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


class OnnxSession:
    """One onnxruntime session.

    Args:
        path: the ONNX file.
        device: where it runs.
        threads: threads within one operator; 0 for one per core.
        max_batch_size: most samples in a run, 0 for no batching, None to find out from the file's shapes.
        default_max_batch_size: what is taken where the file has a batch axis and nothing else was said.
        graph_optimization: the name of onnxruntime's GraphOptimizationLevel.

    Raises:
        LoadError: onnxruntime does not take the file, gave another device, or the shapes contradict `max_batch_size`.
    """

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        threads: int,
        max_batch_size: int | None,
        default_max_batch_size: int,
        graph_optimization: str = "ORT_ENABLE_ALL",
    ) -> None:
        self._session = _open(path, device, threads, graph_optimization)
        self.provider: str = self._session.get_providers()[0]
        if self.provider != device.provider:
            raise LoadError(f"asked for {device.provider} ({device}), the session got {self.provider}")
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if max_batch_size is None:
            max_batch_size = default_max_batch_size if _has_batch_axis(inputs, outputs) else 0
        self.signature = Signature(_specs(inputs), _specs(outputs), max_batch_size)
        _check_batch_axis(self.signature)
        self._file = self.signature  # what the session itself has, whatever clients see
        self._bound: dict[int, Bound] = {}
        strings = any(spec.datatype == "BYTES" for spec in (*self._file.inputs, *self._file.outputs))
        self._kind = Unbound if strings else HostBinding

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs, in the signature's order. Any number of threads may.

        Raises:
            InvalidRequestError: a BYTES element is not UTF-8, which onnxruntime's strings are.
            InternalError: onnxruntime failed on these inputs.
        """
        bound = self._bound.get(get_ident()) or self._bind()
        try:
            return bound.run(inputs)
        except ServiceError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no other base
            raise InternalError(f"onnxruntime: {_first_line(error)}") from error

    def _bind(self) -> Bound:
        """What the calling thread runs with."""
        bound = self._bound[get_ident()] = self._kind(self._session, self._file)
        return bound


def _open(path: Path, device: Device, threads: int, graph_optimization: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, graph_optimization)
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; what is lacking is said once, by us
    try:
        return ort.InferenceSession(str(path), options, providers=[device.provider])
    except Exception as error:  # as above
        raise LoadError(f"onnxruntime does not load it: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


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
