"""numpy arrays to and from the wire: the only place that knows the names of the datatypes.

Raw tensors are row-major and little-endian. A BYTES tensor is, for each element, its length as four little-endian bytes and
then its bytes (Open Inference Protocol, binary tensor data). Decoding makes views of the bytes that came; only BYTES, whose
elements are Python objects, and the typed `contents` fields are copied.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from normserve_proto import open_inference_pb2 as pb

Buffer: TypeAlias = bytes | bytearray | memoryview
Array: TypeAlias = npt.NDArray[Any]
TensorMessage: TypeAlias = pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_LITTLE = frozenset(DTYPES.values()) - {np.dtype(np.object_)}
_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}

# FP16 and BF16 have no field of their own: they travel only as raw bytes.
_CONTENTS_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_LENGTH = struct.Struct("<I")
_MOST_AXES = 64  # numpy's own limit
# An empty tensor costs its sender nothing, and may make an operator allocate for every row that it claims to have.
_MOST_ROWS_OF_NOTHING = 2**26


class TensorError(ValueError):
    """A tensor that does not fit its own description; the text names it, what was wanted and what came."""


def datatype_of(array: Array) -> str:
    """Names the datatype that carries `array`; strings and bytes of any kind are BYTES.

    Raises:
        TensorError: the dtype has no name on the wire.
    """
    if array.dtype.kind in "OSU":
        return "BYTES"
    datatype = _DATATYPES.get(array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype)
    if datatype is None:
        raise TensorError(f"dtype {array.dtype} has no datatype on the wire; known are {', '.join(DTYPES)}")
    return datatype


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor lies in raw bytes: all of its description, checked, and nothing of its content.

    Attributes:
        name: the tensor's name, for errors' texts.
        datatype: a name of the wire, such as "FP32"; `dtype` is numpy's.
        shape: the extents, each >= 0.
        count: how many elements that makes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    count: int

    @classmethod
    def of(cls, name: str, datatype: str, shape: Sequence[int]) -> Self:
        """Checks a description.

        Raises:
            TensorError: unknown datatype, negative extent, or more axes than numpy has.
        """
        dtype, count = _describe(name, datatype, shape)
        return cls(name, datatype, tuple(shape), dtype, count)

    def view(self, raw: Buffer) -> Array:
        """Views raw bytes as an array; see `decode`."""
        if self.datatype == "BYTES":
            elements = _split_bytes(self.name, self.count, self.shape, memoryview(raw))
            return _reshape(self.name, _object_array(elements), self.shape)
        size = self.count * self.dtype.itemsize
        if size != len(raw):
            raise TensorError(
                f"tensor '{self.name}': {self.datatype} of shape {list(self.shape)} takes {size} bytes, got {len(raw)}"
            )
        if self.datatype == "BOOL":
            _check_bools(self.name, raw)
        return _reshape(self.name, np.frombuffer(raw, self.dtype), self.shape)


def decode(name: str, datatype: str, shape: Sequence[int], raw: Buffer) -> Array:
    """Views raw bytes as an array.

    Args:
        name: the tensor's name, for the error's text.
        datatype: a name of the wire, such as "FP32".
        shape: the extents, each >= 0.
        raw: row-major, little-endian elements.

    Returns:
        An array of `shape`, read-only where `raw` is; a view of `raw`, except for BYTES: an object array of bytes.

    Raises:
        TensorError: unknown datatype, negative extent, or a number of bytes that is not what the shape needs.
    """
    return Layout.of(name, datatype, shape).view(raw)


def decode_all(tensors: Sequence[TensorMessage], raw: Sequence[Buffer]) -> dict[str, Array]:
    """Decodes the tensors of one message, in order; each takes the next raw entry, or has `contents`.

    Args:
        tensors: the message's inputs or outputs.
        raw: its raw contents; empty if every tensor has typed `contents`.

    Returns:
        Arrays by name, in the message's order.

    Raises:
        TensorError: a tensor does not fit its bytes, a name appears twice, or the entries and the tensors do not match up.
    """
    if raw and len(raw) != len(tensors):
        raise TensorError(f"{len(tensors)} tensors {[t.name for t in tensors]} but {len(raw)} raw contents")
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        if tensor.name in arrays:
            raise TensorError(f"tensor '{tensor.name}' is given twice")
        arrays[tensor.name] = _decode_one(tensor, raw[index] if raw else None)
    return arrays


def encode(array: Array) -> Buffer:
    """Gives the raw bytes of an array: a view of its memory where it is contiguous, except for strings.

    Args:
        array: any dtype of `DTYPES`; object arrays hold bytes or str, and str travels as UTF-8.

    Raises:
        TensorError: the dtype has no name on the wire, or an element is neither bytes nor str.
    """
    if array.dtype in _LITTLE and array.flags.c_contiguous:
        return array.reshape(-1).view(np.uint8).data
    if datatype_of(array) == "BYTES":
        return b"".join(_length_prefixed(element) for element in array.flat)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    # As integers, because ml_dtypes' types do not speak the buffer protocol.
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _describe(name: str, datatype: str, shape: Sequence[int]) -> tuple[np.dtype[Any], int]:
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise TensorError(f"tensor '{name}': unknown datatype '{datatype}'; known are {', '.join(DTYPES)}")
    if len(shape) > _MOST_AXES:
        raise TensorError(f"tensor '{name}' has {len(shape)} axes, at most {_MOST_AXES} are possible")
    if any(extent < 0 for extent in shape):
        raise TensorError(f"tensor '{name}': shape {list(shape)} has a negative extent")
    count = math.prod(shape)
    if not count and math.prod(extent for extent in shape if extent) > _MOST_ROWS_OF_NOTHING:
        raise TensorError(f"tensor '{name}': shape {list(shape)} is empty and claims more than {_MOST_ROWS_OF_NOTHING} rows")
    return dtype, count


def _decode_one(tensor: TensorMessage, raw: Buffer | None) -> Array:
    if raw is None:
        return _decode_contents(tensor)
    if tensor.HasField("contents"):
        raise TensorError(f"tensor '{tensor.name}' has contents although the message has raw contents; give one of them")
    return decode(tensor.name, tensor.datatype, tensor.shape, raw)


def _decode_contents(tensor: TensorMessage) -> Array:
    dtype, count = _describe(tensor.name, tensor.datatype, tensor.shape)
    field = _CONTENTS_FIELDS.get(tensor.datatype)
    if field is None:
        raise TensorError(f"tensor '{tensor.name}': {tensor.datatype} travels only as raw contents")
    _refuse_other_contents(tensor, field)
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise TensorError(
            f"tensor '{tensor.name}': shape {list(tensor.shape)} takes {count} elements, {field} has {len(values)}"
        )
    if tensor.datatype == "BYTES":
        return _reshape(tensor.name, _object_array(list(values)), tensor.shape)
    return _reshape(tensor.name, _numbers(tensor, dtype, values), tensor.shape)


def _refuse_other_contents(tensor: TensorMessage, field: str) -> None:
    others = [descriptor.name for descriptor, _ in tensor.contents.ListFields() if descriptor.name != field]
    if others:
        raise TensorError(f"tensor '{tensor.name}': {tensor.datatype} travels in {field}, got {', '.join(others)}")


def _numbers(tensor: TensorMessage, dtype: np.dtype[Any], values: Sequence[int | float]) -> Array:
    try:
        return np.array(values, dtype)
    except OverflowError as error:  # int_contents carries INT8 and INT16 too
        raise TensorError(f"tensor '{tensor.name}': a value does not fit {tensor.datatype}: {error}") from None


def _check_bools(name: str, raw: Buffer) -> None:
    """Kernels count with a bool's byte: one that is 250 would be taken for 250 times true."""
    values = np.frombuffer(raw, np.uint8)
    if values.size and values.max() > 1:
        raise TensorError(f"tensor '{name}': a BOOL is a byte 0 or 1, got {values.max()}")


def _object_array(elements: list[bytes]) -> Array:
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


def _reshape(name: str, array: Array, shape: Sequence[int]) -> Array:
    try:
        return array.reshape(tuple(shape))
    except (ValueError, OverflowError) as error:  # an empty tensor may claim extents that no array can have
        raise TensorError(f"tensor '{name}': shape {list(shape)} is not possible: {error}") from None


def _split_bytes(name: str, count: int, shape: Sequence[int], raw: memoryview) -> list[bytes]:
    elements: list[bytes] = []
    position = 0
    while position < len(raw):
        if len(elements) == count:
            raise TensorError(f"tensor '{name}': BYTES of shape {list(shape)} takes {count} elements, got more")
        start = position + _LENGTH.size
        stop = start + (_LENGTH.unpack_from(raw, position)[0] if start <= len(raw) else 0)
        if stop > len(raw):
            raise TensorError(f"tensor '{name}': BYTES element {len(elements)} ends at byte {stop} of {len(raw)}")
        elements.append(bytes(raw[start:stop]))
        position = stop
    if len(elements) != count:
        raise TensorError(f"tensor '{name}': BYTES of shape {list(shape)} takes {count} elements, got {len(elements)}")
    return elements


def _length_prefixed(element: object) -> bytes:
    try:
        data = element.encode() if isinstance(element, str) else element
    except UnicodeEncodeError as error:  # a lone surrogate, as undecodable file names have
        raise TensorError(f"a BYTES element is not UTF-8: {error}") from None
    if not isinstance(data, bytes):
        raise TensorError(f"a BYTES element is bytes or str, got {type(element).__name__}")
    return _LENGTH.pack(len(data)) + data
