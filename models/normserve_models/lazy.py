"""Reading an ONNX file without its weights, which stay where they are until somebody asks for one.

An ONNX file is one protobuf message, and a parser reads it whole: twice the file in memory, of which one copy is held for as
long as any tensor lives. Here the fields of the message are walked, and of each large initializer of floats the parser gets
all but the content, whose place in the file is remembered. A proof reads the same file several times, and needs one weight
at a time.

A field is a varint, its number << 3 | its wire type, and its content ("Encoding" in protobuf's documentation).
"""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BYTES = 2  # a length and as many bytes; the only wire type of messages and raw data
SIZES = {1: 8, 5: 4}  # of the wire types that have one
LONGEST_VARINT = 10
GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER << 3 | BYTES
INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER << 3 | BYTES
RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER << 3 | BYTES
LARGE = 1 << 16  # bytes of an initializer; what is smaller is read at once
FLOATS = {
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
}


class UnusualError(ValueError):
    """The message is written in a way that is left to protobuf, or is no ONNX file at all."""


@dataclass(frozen=True)
class Field:
    """A field of a message in the file: its key begins at `start`, its content at `content`, and it ends before `end`."""

    key: int
    start: int
    content: int
    end: int


def load(path: Path) -> ir.Model:
    """Read a model; each large weight inside the file is read whenever it is asked for, and not kept.

    The file is held open, so that it may be replaced meanwhile, but must not be written to.

    Raises:
        UnusualError: ir.load has to read it, and may say what is wrong with it.
        OSError: It cannot be read.
        DecodeError, ValueError, KeyError, TypeError, RuntimeError: As ir.load.
    """
    file = _File(path)
    try:
        data = mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise UnusualError("it is empty, or a directory") from error
    with data:
        proto, places = _parse(data)
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    for name, place in places.items():
        value = model.graph.initializers[name]
        assert value.const_value is not None  # noqa: S101 - it was parsed
        value.const_value = _lazy(file, place, value.const_value)
    return model


class _File:
    """An open file, closed when the last weight that lies in it is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def read(self, place: Field) -> bytearray:
        content = bytearray(place.end - place.content)
        with open(self.descriptor, "rb", buffering=0, closefd=False) as stream:
            stream.seek(place.content)
            done = 0
            while done < len(content):  # a call gives 2 GiB at most
                got = stream.readinto(memoryview(content)[done:])
                if not got:
                    raise OSError(f"{self._path}: it has been cut off since it was opened")
                done += got
        return content


def _lazy(file: _File, place: Field, stub: ir.TensorProtocol) -> ir.LazyTensor:
    shape = tuple(map(int, stub.shape.numpy()))

    def read() -> ir.TensorProtocol:
        return ir.Tensor(np.frombuffer(file.read(place), stub.dtype.numpy()).reshape(shape), name=stub.name)

    return ir.LazyTensor(read, dtype=stub.dtype, shape=ir.Shape(shape), name=stub.name)


def _parse(data: mmap.mmap) -> tuple[onnx.ModelProto, dict[str, Field]]:
    """Return the message with its large weights left empty, and where these lie, by name."""
    proto = onnx.ModelProto()
    places: dict[str, Field] = {}
    for field in _fields(data, 0, len(data)):
        if field.key != GRAPH:
            proto.MergeFromString(data[field.start : field.end])
            continue
        rest = []
        for inner in _fields(data, field.content, field.end):
            if inner.key == INITIALIZER:
                _add_initializer(data, inner, proto.graph, places)
            else:
                rest.append(data[inner.start : inner.end])
        proto.graph.MergeFromString(b"".join(rest))
    return proto, places


def _add_initializer(data: mmap.mmap, field: Field, graph: onnx.GraphProto, places: dict[str, Field]) -> None:
    tensor = graph.initializer.add()
    place = None if field.end - field.content < LARGE else _weight(data, field, tensor)
    if place is None:
        tensor.ParseFromString(data[field.content : field.end])
    elif tensor.name in places or not tensor.name:
        raise UnusualError(f"two initializers are called {tensor.name!r}")
    else:
        places[tensor.name] = place


def _weight(data: mmap.mmap, field: Field, tensor: onnx.TensorProto) -> Field | None:
    """Parse all of a tensor but its content, and return where that lies; None where it has to be parsed whole."""
    inner = list(_fields(data, field.content, field.end))
    raw = [part for part in inner if part.key == RAW_DATA]
    if len(raw) != 1:
        return None
    tensor.ParseFromString(b"".join(data[part.start : part.end] for part in inner if part.key != RAW_DATA))
    if tensor.data_type not in FLOATS or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    size = math.prod(tensor.dims) * ir.DataType(tensor.data_type).itemsize
    return raw[0] if size == raw[0].end - raw[0].content else None


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message from `start` to `end`.

    Raises:
        UnusualError: It is none, or holds a group, which ONNX does not use.
    """
    while start < end:
        key, content = _varint(data, start, end)
        wire = key & 7
        if wire == BYTES:
            size, content = _varint(data, content, end)
        elif wire:
            size = SIZES.get(wire, end)  # a group ends nowhere that could be told from its start
        else:
            size = _varint(data, content, end)[1] - content
        if content + size > end:
            raise UnusualError(f"a field at {start} goes beyond the end of its message")
        yield Field(key, start, content, content + size)
        start = content + size


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Return the varint at `start`, seven bits a byte, lowest first, and where it ends."""
    number = 0
    for index in range(min(LONGEST_VARINT, end - start)):
        byte = data[start + index]
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, start + index + 1
    raise UnusualError(f"a number at {start} does not end")
