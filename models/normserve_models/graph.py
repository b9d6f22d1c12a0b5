"""Reading, writing and rewiring ONNX graphs: what every edit needs and no rule of a fold is in."""

from __future__ import annotations

import itertools
import logging
import shutil
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from normserve_models import lazy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BATCH_NORM = "BatchNormalization"
OWN_DOMAINS = frozenset(("", "ai.onnx"))

# From this version on, initializers need not be listed as inputs, and one that is listed may be overridden.
FIRST_IR_WITH_CONSTANTS = 4
# A protobuf message ends at 2 GiB; what is over this goes to a file beside the model.
LARGEST_MESSAGE = 1 << 30
GRAPH_FIELD = onnx.ModelProto.GRAPH_FIELD_NUMBER
INITIALIZER_FIELD = onnx.GraphProto.INITIALIZER_FIELD_NUMBER


class SourceError(ValueError):
    """The file is no model that can be served; the message is one line and names the file."""


def load(path: Path) -> ir.Model:
    """Read an ONNX file; large weights stay on disk, and are read when they are used.

    Args:
        path: The model.

    Returns:
        The model, its nodes in topological order. A file older than IR 4 has had to list its initializers as inputs;
        here they are constants, as onnxruntime takes them.

    Raises:
        SourceError: It cannot be read, is not ONNX, is truncated, uses a value that nothing gives, holds a cycle, or its
            external data is missing, too short, or outside the folder of the model.
    """
    try:
        with _without_warnings():
            model = _read(path)
    except (OSError, DecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not an ONNX file, or truncated"
        raise SourceError(f"{path}: {what}") from error
    except (ValueError, KeyError, TypeError, RuntimeError) as error:  # RuntimeError: SerdeError, NotImplementedError
        reason = _one_line(error.__cause__ or error)
        raise SourceError(f"{path}: not a valid ONNX graph: {reason}") from error
    if not model.ir_version or not (model.opset_imports or len(model.graph)):
        raise SourceError(f"{path}: not an ONNX file, or truncated")
    for tensor in _external_tensors(model):
        _require_inside(path, tensor)
    _require_sound(path, model)
    _sort(path, model)
    _free_constants(model)
    return model


def _read(path: Path) -> ir.Model:
    try:
        return lazy.load(path)
    except lazy.UnusualError:
        return ir.load(path)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep onnx_ir from writing on stderr what comes as an error here."""
    logger = logging.getLogger("onnx_ir.serde")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _require_sound(path: Path, model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        names = (node.name, node.op_type, node.domain, *(value.name for value in (*node.inputs, *node.outputs) if value))
        if any(isinstance(name, bytes) for name in names):  # what protobuf makes of a string that it cannot decode
            raise SourceError(f"{path}: a name in {node.op_type!r} {node.name!r} is not UTF-8")
        for value in node.inputs:
            if value is not None and value.producer() is None and value.graph is None:
                raise SourceError(f"{path}: {value.name!r}, an input of {node.op_type} {node.name!r}, is given by nothing")


def _sort(path: Path, model: ir.Model) -> None:
    try:
        for body in _bodies(model):
            body.sort()
    except ValueError as error:
        raise SourceError(f"{path}: the graph has a cycle") from error


def _free_constants(model: ir.Model) -> None:
    if model.ir_version >= FIRST_IR_WITH_CONSTANTS:
        return
    model.ir_version = FIRST_IR_WITH_CONSTANTS
    for value in model.graph.initializers.values():
        if value.is_graph_input():
            model.graph.inputs.remove(value)


def external_files(model: ir.Model) -> list[str]:
    """Return the names of the files that hold the model's external data, relative to the model's folder."""
    return sorted({str(tensor.location) for tensor in _external_tensors(model)})


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    for graph in model.graphs():
        attributes = itertools.chain.from_iterable(node.attributes.values() for node in graph)
        inline = (attribute.value for attribute in attributes if attribute.type is ir.AttributeType.TENSOR)
        stored = (value.const_value for value in graph.initializers.values())
        yield from (tensor for tensor in itertools.chain(stored, inline) if isinstance(tensor, ir.ExternalTensor))


def _require_inside(path: Path, tensor: ir.ExternalTensor) -> None:
    home = path.absolute().parent.resolve()
    location = PurePath(str(tensor.location))
    file = (home / location).resolve()
    if location.is_absolute() or ".." in location.parts or not file.is_relative_to(home):
        raise SourceError(f"{path}: the external data {str(location)!r} is outside the folder of the model")
    if not file.is_file():
        raise SourceError(f"{path}: the external data {str(location)!r} is missing")
    if file.stat().st_nlink > 1:  # onnx_ir refuses to read it: the other name may be somebody else's file
        raise SourceError(f"{path}: the external data {str(location)!r} has several hard links")
    wanted = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
    if file.stat().st_size < wanted:
        raise SourceError(
            f"{path}: the external data {str(location)!r} has {file.stat().st_size} bytes, {tensor.name!r} wants {wanted}"
        )


def copy(source: Path, target: Path) -> None:
    """Copy an ONNX file as it is, byte for byte, with its external data.

    Raises:
        SourceError: The source cannot be read.
        OSError: The copy cannot be written.
    """
    for name in external_files(load(source)):
        beside = target.parent / name
        beside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / name, beside)
    shutil.copyfile(source, target)


def save(model: ir.Model, path: Path, data_name: str) -> None:
    """Write an ONNX file, its weights beside it where they are too large for one message.

    Args:
        model: The model. It is not changed.
        path: Where to write.
        data_name: The name of the file for external data, in the folder of `path`; made only where it is needed.

    Raises:
        OSError: The files cannot be written.
    """
    initializers = itertools.chain.from_iterable(graph.initializers.values() for graph in model.graphs())
    size = sum(value.const_value.nbytes for value in initializers if value.const_value is not None)
    if size > LARGEST_MESSAGE or external_files(model):
        ir.save(model, path, external_data=data_name)
    else:
        _write(ir.to_proto(model), path)


def _write(model: onnx.ModelProto, path: Path) -> None:
    """Write a message tensor by tensor: protobuf's serializer takes a second and twice the memory for 100 MB at once."""
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    body = model.graph.SerializeToString()
    model.ClearField("graph")
    prefixes = [_prefix(INITIALIZER_FIELD, tensor.ByteSize()) for tensor in tensors]
    size = len(body) + sum(len(prefix) + tensor.ByteSize() for prefix, tensor in zip(prefixes, tensors, strict=True))
    with path.open("wb") as file:
        file.write(model.SerializeToString() + _prefix(GRAPH_FIELD, size) + body)
        for prefix, tensor in zip(prefixes, tensors, strict=True):
            file.write(prefix)
            file.write(tensor.SerializeToString())


def _prefix(number: int, size: int) -> bytes:
    """Return what stands before an embedded message: its field number and wire type 2, and its length as a varint."""
    encoded = bytearray([number << 3 | 2])
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


def batch_norms(model: ir.Model) -> list[ir.Node]:
    """Return the batch norms of the graph, of its subgraphs and of the model's own functions, in their order."""
    nodes = itertools.chain.from_iterable(body.all_nodes() for body in _bodies(model))
    return [node for node in nodes if node.op_type == BATCH_NORM and node.domain in OWN_DOMAINS]


def opsets(model: ir.Model) -> dict[str, int]:
    """Return the opset of each domain; ONNX's own is "", which a file may also write "ai.onnx"."""
    return {"" if domain in OWN_DOMAINS else domain: version for domain, version in model.opset_imports.items()}


def _bodies(model: ir.Model) -> list[ir.Graph | ir.Function]:
    return [model.graph, *model.functions.values()]


def label(node: ir.Node) -> str:
    """Return what a report calls a node: its name, or that of its first output."""
    return node.name or node.outputs[0].name or node.op_type


def infer_shapes(model: ir.Model) -> None:
    """Infer the shapes and types of the graph where one that a rule may ask for is lacking."""
    asked = (node for node in model.graph if node.op_type in {"MatMul", "Add", "CastLike", "Shape"})
    values = itertools.chain.from_iterable((*node.inputs, *node.outputs) for node in asked)
    if any(value is not None and value.shape is None for value in values):
        from onnx_ir.passes import common  # noqa: PLC0415 - for few files

        common.ShapeInferencePass(strict_mode=False)(model)


class Names:
    """Gives names that no value of a model has."""

    def __init__(self, model: ir.Model) -> None:
        self._taken = {value.name for graph in model.graphs() for value in _values(graph)}
        self._numbers: dict[str, Iterator[int]] = {}

    def fresh(self, base: str) -> str:
        """Return `base`, or `base` with the first number that makes it unique."""
        name = base
        numbers = self._numbers.setdefault(base, itertools.count(2))
        while name in self._taken:
            name = f"{base}.{next(numbers)}"
        self._taken.add(name)
        return name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def dissolve(node: ir.Node, kept: ir.Value) -> None:
    """Leave `node` out: `kept` takes the place, the name and the shape of its first output."""
    gone = node.outputs[0]
    graph = node.graph
    assert graph is not None  # noqa: S101 - only nodes of a graph are dissolved
    gone.replace_all_uses_with(kept, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    kept.name, kept.shape, kept.type = gone.name, gone.shape or kept.shape, gone.type or kept.type


def sweep(values: Iterable[ir.Value | None]) -> None:
    """Remove those initializers that nothing uses any more, and the nodes that made such constants."""
    pending = list(dict.fromkeys(values))  # once each: asking a value for its uses costs as much as it has
    while pending:
        value = pending.pop()
        if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        node = value.producer()
        if value.is_initializer():
            assert value.graph is not None  # noqa: S101 - an initializer belongs to a graph
            del value.graph.initializers[str(value.name)]
        elif node is not None and node.graph is not None and not _used(node):
            pending.extend(node.inputs)
            node.graph.remove(node, safe=True)


def _used(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)


def complaint(path: Path) -> str | None:
    """Return what onnx.checker has against a file, in one line, or None."""
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        return _one_line(error)
    return None
