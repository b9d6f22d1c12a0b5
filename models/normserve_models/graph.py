"""Reading, writing and rewiring ONNX graphs: what every edit needs and no rule of a fold is in."""

from __future__ import annotations

import itertools
import logging
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from normserve_models import onnx_file, stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BATCH_NORM = "BatchNormalization"
OWN_DOMAINS = frozenset(("", "ai.onnx"))
CONSTANT_ATTRIBUTES = {
    "value": ir.AttributeType.TENSOR,
    "value_float": ir.AttributeType.FLOAT,
    "value_floats": ir.AttributeType.FLOATS,
    "value_int": ir.AttributeType.INT,
    "value_ints": ir.AttributeType.INTS,
    "value_string": ir.AttributeType.STRING,
    "value_strings": ir.AttributeType.STRINGS,
    "sparse_value": ir.AttributeType.SPARSE_TENSOR,
}

RUNTIME_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed:"
    r"|/onnxruntime_src/\S+ [^(]*\([^)]*\)(?: const)? |\w+\.cc:\d+ \w+ "
)

# From this version on, initializers need not be listed as inputs, and one that is listed may be overridden.
FIRST_IR_WITH_CONSTANTS = 4
# A protobuf message ends at 2 GiB; what is over this goes to a file beside the model.
LARGEST_MESSAGE = 1 << 30


class SourceError(ValueError):
    """The file is no model that can be served; the message is one line and names the file."""


def load(path: Path) -> ir.Model:
    """Read an ONNX file; weights in files beside it stay on disk until they are used.

    Args:
        path: The model.

    Returns:
        The model, its nodes in topological order. A file older than IR 4 has had to list its initializers as inputs;
        here they are constants, as onnxruntime takes them.

    Raises:
        SourceError: It cannot be read, is not ONNX, is truncated, uses a value that nothing gives, holds a cycle, or its
            external data is missing, too short, or outside the folder of the model.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # to open a pipe would wait for ever
        raise SourceError(f"{path}: not a regular file")
    try:
        message, spans = onnx_file.read(path)
        with quiet():
            model = ir.from_proto(stored.marked(message, spans))
            stored.resolve(model, path)
    except (OSError, DecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not an ONNX file, or truncated"
        raise SourceError(f"{path}: {what}") from error
    except stored.DataError as error:
        raise SourceError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, RuntimeError) as error:  # RuntimeError: SerdeError, NotImplementedError
        raise SourceError(f"{path}: not a valid ONNX graph: {_one_line(_root(error))}") from error
    if not model.ir_version or not (model.opset_imports or len(model.graph)):
        raise SourceError(f"{path}: not an ONNX file, or truncated")
    _require_sound(path, model)
    _sort(path, model)
    _free_constants(model)
    return model


def runtime_reason(error: BaseException) -> str:
    """Return what onnxruntime has to say, in one line, without where in its own sources it says so."""
    return RUNTIME_NOISE.sub("", _one_line(error))


def _root(error: BaseException) -> BaseException:
    """Return what an error comes from: onnx_ir tells at each level in what it happened, which is the whole graph."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keep onnx_ir from writing on stderr what comes as an error here."""
    logger = logging.getLogger("onnx_ir")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _require_sound(path: Path, model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        names = (node.name, node.op_type, node.domain, *(value.name for value in (*node.inputs, *node.outputs) if value))
        if any(isinstance(name, bytes) for name in names):  # what protobuf makes of a string that it cannot decode
            raise SourceError(f"{path}: a name in {node.op_type!r} {node.name!r} is not UTF-8")
        if node.op_type == "Constant" and node.domain in OWN_DOMAINS:
            _require_constant(path, node)
        for value in node.inputs:
            if value is not None and value.producer() is None and value.graph is None:
                raise SourceError(f"{path}: {value.name!r}, an input of {node.op_type} {node.name!r}, is given by nothing")


def _require_constant(path: Path, node: ir.Node) -> None:
    values = node.attributes.values()
    sound = len(values) == 1 and all(CONSTANT_ATTRIBUTES.get(value.name) is value.type for value in values)
    if node.inputs:
        raise SourceError(f"{path}: Constant {label(node)!r} has {len(node.inputs)} inputs, wanted none")
    if not sound:
        given = ", ".join(f"{value.name} ({value.type.name})" for value in values) or "none"
        raise SourceError(f"{path}: Constant {label(node)!r} has the attributes {given}, wanted one that is its value")


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
    return stored.external_files(model)


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
        onnx_file.write(model, path)


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
    """Infer the shapes and types of the graph where some are lacking."""
    values = itertools.chain.from_iterable(node.outputs for node in model.graph.all_nodes())
    if any(value.shape is None or value.dtype is None for value in values if value.name):
        from onnx_ir.passes import common  # noqa: PLC0415 - for few files

        sequences = [(value, value.type, value.shape) for value in _sequences(model)]
        with quiet():
            common.ShapeInferencePass(strict_mode=False)(model)
        for value, kind, shape in sequences:  # the pass takes a sequence of tensors for a tensor
            value.type, value.shape = kind, shape


def _sequences(model: ir.Model) -> Iterator[ir.Value]:
    for node in model.graph.all_nodes():
        if node.op_type == "SplitToSequence" or node.op_type.startswith(("Sequence", "Optional")):
            yield from (value for value in node.outputs if node.op_type not in {"SequenceAt", "SequenceLength"})


def inline_functions(model: ir.Model) -> None:
    """Put the bodies of the model's own functions in the place of their calls: weights come from the call, and differ."""
    if model.functions:
        from onnx_ir.passes import common  # noqa: PLC0415 - for few files

        common.InlinePass()(model)


def complaint(path: Path) -> str | None:
    """Return what onnx.checker has against a file, in one line, or None."""
    message, spans = onnx_file.read(path)
    whole = not spans or any(tensor.data_location for tensor in message.graph.initializer)
    for index in spans:  # it looks at no numbers, and would hold two copies of them
        message.graph.initializer[index].dims[:] = [0]
    try:
        onnx.checker.check_model(path if whole else message)
    except onnx.checker.ValidationError as error:
        return _one_line(error)
    return None
