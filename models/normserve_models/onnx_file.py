"""ONNX files read and written without their weights in memory.

protobuf gives and takes a message as one string of bytes, which for a model is two copies of all its weights. Here the file is
walked as far as the initializers, whose raw data stays where it is, and protobuf sees the rest. Writing does the reverse.
Encoding: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import onnx
import onnx_ir as ir
from onnx import GraphProto, ModelProto, TensorProto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


LARGE = 1 << 12  # bytes of a tensor that is worth a seek of its own
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
FIXED = {FIXED64: 8, FIXED32: 4}


class _UnusualError(Exception):
    """The encoding is damaged, or is legal and nobody writes it: for protobuf to decide."""


@dataclass(frozen=True)
class Field:
    """One field of an encoded message: where it starts, where its value does, and where it ends."""

    number: int
    start: int
    value: int
    stop: int


@dataclass(frozen=True)
class Span:
    """Where in a file the raw data of a tensor lies, in bytes."""

    offset: int
    length: int


def read(path: Path) -> tuple[onnx.ModelProto, dict[int, Span]]:
    """Read a model, but for the raw data of its large initializers.

    Args:
        path: The file.

    Returns:
        The message, in which these initializers have no data, and where their data is, by their index in the graph.

    Raises:
        OSError: It cannot be read.
        DecodeError: It is no protobuf message.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return ModelProto(), {}
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                slim, spans = _without_raw_data(data)
            except (_UnusualError, IndexError):
                slim, spans = data[:], {}
            return ModelProto.FromString(slim), spans


def _without_raw_data(data: mmap.mmap) -> tuple[bytes, dict[int, Span]]:
    fields = list(_fields(data, 0, len(data)))
    graphs = [field for field in fields if field.number == ModelProto.GRAPH_FIELD_NUMBER]
    if len(graphs) != 1:  # protobuf would merge several
        raise _UnusualError
    graph, spans = _slim_graph(data, graphs[0])
    parts = [graph if field is graphs[0] else data[field.start : field.stop] for field in fields]
    return b"".join(parts), spans


def _slim_graph(data: mmap.mmap, graph: Field) -> tuple[bytes, dict[int, Span]]:
    parts: list[bytes] = []
    spans: dict[int, Span] = {}
    index = 0
    for field in _fields(data, graph.value, graph.stop):
        is_tensor = field.number == GraphProto.INITIALIZER_FIELD_NUMBER
        raw = _raw_data(data, field) if is_tensor and field.stop - field.value >= LARGE else None
        if raw is None:
            parts.append(data[field.start : field.stop])
        else:
            slim = data[field.value : raw.start] + data[raw.stop : field.stop]
            parts.append(_prefix(field.number, len(slim)) + slim)
            spans[index] = Span(raw.value, raw.stop - raw.value)
        index += is_tensor
    body = b"".join(parts)
    return _prefix(graph.number, len(body)) + body, spans


def _raw_data(data: mmap.mmap, tensor: Field) -> Field | None:
    found = [field for field in _fields(data, tensor.value, tensor.stop) if field.number == TensorProto.RAW_DATA_FIELD_NUMBER]
    return found[0] if len(found) == 1 else None


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[Field]:
    while position < end:
        key, value = _varint(data, position)
        size, wire = 0, key & 7
        if wire == VARINT:
            stop = _varint(data, value)[1]
        elif wire == LENGTH:
            size, value = _varint(data, value)
            stop = value + size
        elif wire in FIXED:
            stop = value + FIXED[wire]
        else:  # a group
            raise _UnusualError
        if stop > end:
            raise _UnusualError
        yield Field(key >> 3, position, value, stop)
        position = stop


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    """Return the number at `position`, seven bits a byte from the lowest, and where it ends."""
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
        if shift > 63:
            raise _UnusualError


def write(model: ir.Model, path: Path) -> None:
    """Write a model as one message, its large initializers one after the other.

    Args:
        model: The model. It is not changed.
        path: Where to write.

    Raises:
        OSError: The file cannot be written.
        SerdeError: The model holds what no message can, such as a string that is not UTF-8.
    """
    with _without_data(model.graph) as tensors:
        message = ir.to_proto(model)
    initializers = list(message.graph.initializer)
    del message.graph.initializer[:]
    graph = message.graph.SerializeToString()
    message.ClearField("graph")
    heads = [_head(initializer, tensors.get(initializer.name)) for initializer in initializers]
    size = len(graph) + sum(map(len, heads)) + sum(tensor.nbytes for tensor in tensors.values())
    with path.open("wb") as file:
        file.write(message.SerializeToString() + _prefix(ModelProto.GRAPH_FIELD_NUMBER, size) + graph)
        for head, initializer in zip(heads, initializers, strict=True):
            file.write(head)
            if initializer.name in tensors:
                file.write(tensors[initializer.name].tobytes())


@contextmanager
def _without_data(graph: ir.Graph) -> Iterator[dict[str, ir.TensorProtocol]]:
    """Take the data of the large initializers away for a while; give these, by name."""
    large = {value: value.const_value for value in graph.initializers.values() if _is_large(value.const_value)}
    try:
        for value, tensor in large.items():
            value.const_value = _empty(tensor)
        yield {str(value.name): tensor for value, tensor in large.items()}
    finally:
        for value, tensor in large.items():
            value.const_value = tensor


def _is_large(tensor: ir.TensorProtocol | None) -> TypeGuard[ir.TensorProtocol]:
    return tensor is not None and tensor.dtype is not ir.DataType.STRING and tensor.nbytes >= LARGE


def _empty(tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    """Return what is written as the tensor but for its data."""
    shape = ir.Shape(list(tensor.shape.numpy()))
    name, doc, metadata = tensor.name or "", tensor.doc_string, dict(tensor.metadata_props)
    return ir.ExternalTensor("", None, None, tensor.dtype, shape=shape, name=name, doc_string=doc, metadata_props=metadata)


def _head(message: onnx.TensorProto, tensor: ir.TensorProtocol | None) -> bytes:
    """Return an encoded tensor, up to its raw data where `tensor` is what holds this."""
    if tensor is None:
        fields = message.SerializeToString()
        return _prefix(GraphProto.INITIALIZER_FIELD_NUMBER, len(fields)) + fields
    message.ClearField("external_data")
    message.ClearField("data_location")
    fields = message.SerializeToString() + _prefix(TensorProto.RAW_DATA_FIELD_NUMBER, tensor.nbytes)
    return _prefix(GraphProto.INITIALIZER_FIELD_NUMBER, len(fields) + tensor.nbytes) + fields


def _prefix(number: int, size: int) -> bytes:
    """Return what stands before a field of many bytes: its number and wire type, and its length."""
    return _encoded(number << 3 | LENGTH) + _encoded(size)


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
