"""How a session is run for one thread: by onnxruntime's IO binding, on the host here and on other devices in `device_binding`.

The binding is used by its C interface. The Python wrapper around it looks over each tensor for WebGPU, which is a third of a
small network's run; what is used here is what the wrapper calls.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import onnxruntime as ort
from normserve_proto.tensors import Array
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_c

from normserve_server.errors import InvalidRequestError
from normserve_server.servable import Signature, TensorSpec

# Of onnx.TensorProto, which is not imported for it.
ELEMENT_TYPES = {
    "FP32": 1,
    "UINT8": 2,
    "INT8": 3,
    "UINT16": 4,
    "INT16": 5,
    "INT32": 6,
    "INT64": 7,
    "BYTES": 8,
    "BOOL": 9,
    "FP16": 10,
    "FP64": 11,
    "UINT32": 12,
    "UINT64": 13,
    "BF16": 16,
}


class Bound(Protocol):
    """What runs a session for one thread."""

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs, in the session's order."""


def place(kind: str, index: int = 0) -> Any:
    """Gives what onnxruntime calls a device: where memory is.

    Args:
        kind: "cpu" or "cuda".
        index: its number among those.
    """
    return ort.OrtDevice.make(kind, index)._get_c_device()


def hosted(session: ort.InferenceSession, where: tuple[str, int]) -> frozenset[str]:
    """Names the inputs that a session reads elsewhere than where it computes: shapes and the like, on the host.

    onnxruntime copies what is bound for them anywhere else while it is bound, whatever is still under way there.

    Args:
        session: the session.
        where: its device, as `Accelerator.where` has it.
    """
    infos = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
    return frozenset(node.name for node, info in infos if info.name.lower() != where[0])


class HostBinding:
    """Runs a session on the host's memory: inputs are read where they are, outputs are what onnxruntime allocated.

    Args:
        session: the session; without BYTES.
        signature: of the session's file.
    """

    def __init__(self, session: ort.InferenceSession, signature: Signature) -> None:
        self._run = session._sess.run_with_iobinding
        self._binding = onnxruntime_c.SessionIOBinding(session._sess)
        self._bind = self._bind_bits if _has_bfloat16(signature.inputs) else self._binding.bind_input
        self._host = place("cpu")
        self._names = [spec.name for spec in signature.outputs]
        self._readers = _readers(signature)
        self._held: list[Array] = []  # that onnxruntime has only the address of
        self._forget()

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs, in the session's order; raises what onnxruntime raises."""
        bind, outputs = self._bind, []
        for name, array in inputs.items():
            bind(name, array)
        try:
            self._run(self._binding, None)
            values = self._binding.get_outputs()
            for position, read in self._readers:
                outputs.append(read(values[position]))
        finally:
            self._forget()
        return outputs

    def _forget(self) -> None:
        """Has onnxruntime allocate the outputs of the next run, and lets go of what the last was bound to."""
        bind, host = self._binding.bind_output, self._host
        for name in self._names:
            bind(name, host)
        self._binding.clear_binding_inputs()
        self._held.clear()

    def _bind_bits(self, name: str, array: Array) -> None:
        """Binds an input, of BF16 as its bits."""
        if array.dtype != ml_dtypes.bfloat16:
            self._binding.bind_input(name, array)
            return
        bits = np.require(array, requirements="C").view(np.uint16)
        self._held.append(bits)
        value = onnxruntime_c.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, ELEMENT_TYPES["BF16"])
        self._binding.bind_ortvalue_input(name, value)


class Unbound:
    """Runs a session with BYTES: onnxruntime's IO binding takes no strings from Python.

    Args:
        session: the session.
        signature: of the session's file.
    """

    def __init__(self, session: ort.InferenceSession, signature: Signature) -> None:
        self._session = session
        self._names = [spec.name for spec in signature.outputs]
        self._strings = {spec.name for spec in signature.inputs if spec.datatype == "BYTES"}

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs, in the session's order; raises what onnxruntime raises.

        Raises:
            InvalidRequestError: an element is not UTF-8, which onnxruntime's strings are.
        """
        sent = {name: _text(name, array) if name in self._strings else array for name, array in inputs.items()}
        outputs: Sequence[Array] = self._session.run(self._names, sent)
        return outputs


def _has_bfloat16(specs: Sequence[TensorSpec]) -> bool:
    return any(spec.datatype == "BF16" for spec in specs)


def _readers(signature: Signature) -> list[tuple[int, Callable[[Any], Array]]]:
    """What makes arrays of the outputs, by their position: mostly views that keep the memory."""
    passed = {spec.name for spec in signature.inputs}
    readers = [_copied if spec.name in passed else onnxruntime_c.OrtValue.numpy for spec in signature.outputs]
    return [
        (position, _from_bits if spec.datatype == "BF16" else read)
        for position, (spec, read) in enumerate(zip(signature.outputs, readers, strict=True))
    ]


def _copied(value: Any) -> Array:
    """A copy: the output is an input, whose memory is the next batch's."""
    return np.array(value.numpy())


def _from_bits(value: Any) -> Array:
    """A copy of BF16, which onnxruntime's numpy interface lacks."""
    bits = (ctypes.c_uint16 * (value.tensor_size_in_bytes() // 2)).from_address(value.data_ptr())
    array: Array = np.array(bits, np.uint16).view(ml_dtypes.bfloat16).reshape(value.shape())
    return array


def _text(name: str, array: Array) -> Array:
    try:
        return np.array([element.decode() for element in array.flat], np.object_).reshape(array.shape)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"input '{name}': an element is not UTF-8: {error}") from None
