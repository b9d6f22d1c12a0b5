"""The tensors of a model that lie in a file: looked at when the model is read, and read whenever they are asked for.

Nothing is kept of what is read, so a model costs the memory of what is being worked on. The name of a file comes from the
model, which may be anybody's: what it names has to be a regular file in the folder of the model, links followed, whether
that of the link to the model or that of the model itself (a cache of downloads holds links to both). A hard link is a
file like any other: the kernel lets those make one who may write the file.
"""

from __future__ import annotations

import itertools
import secrets
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from normserve_models.onnx_file import Span

INLINE = secrets.token_hex()  # stands for the model's own file, and is nothing that a model could name
LOCATION = "location"


class DataError(ValueError):
    """The data of a tensor is not where the model says; the message names the tensor or the file."""


def marked(message: onnx.ModelProto, spans: Mapping[int, Span]) -> onnx.ModelProto:
    """Return `message`, its initializers without data made to point into its own file; `resolve` knows these."""
    for index, span in spans.items():
        tensor = message.graph.initializer[index]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": INLINE, "offset": str(span.offset), "length": str(span.length)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    return message


def resolve(model: ir.Model, path: Path) -> None:
    """Let the stored tensors of a model be read from where they are.

    Args:
        model: What `marked` has returned, as a graph.
        path: The file that it came from.

    Raises:
        DataError: The data of a tensor is missing, too short, or outside the folder of the model.
    """
    for graph in _graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _lazy(value.const_value, path)
    for node in _nodes(model):
        for name, attribute in list(node.attributes.items()):
            tensors = [_lazy(tensor, path) for tensor in _external(attribute)]
            if tensors and attribute.type is ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, tensors[0])
            elif tensors:
                raise DataError(f"{node.op_type} {node.name!r} has a list of tensors with external data, wanted one tensor")


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield from model.graphs()
    for function in model.functions.values():
        yield from function.subgraphs()


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    return itertools.chain.from_iterable(body.all_nodes() for body in bodies)


def _external(attribute: ir.Attr) -> list[ir.ExternalTensor]:
    tensors: list[object] = []
    if not attribute.is_ref() and attribute.type in {ir.AttributeType.TENSOR, ir.AttributeType.TENSORS}:
        tensors = [attribute.value] if attribute.type is ir.AttributeType.TENSOR else list(attribute.as_tensors())
    return [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]


def _lazy(tensor: ir.ExternalTensor, path: Path) -> ir.LazyTensor:
    location = str(tensor.location)
    file = path.absolute() if location == INLINE else _inside(path, location)
    _require_whole(tensor, file)
    read = _Reader(file, tensor)
    lazy = ir.LazyTensor(read, tensor.dtype, tensor.shape, name=tensor.name, doc_string=tensor.doc_string)
    lazy.metadata_props.update(tensor.metadata_props)
    if location != INLINE:
        lazy.meta[LOCATION] = location
    return lazy


class _Reader:
    """Gives a tensor that maps the file, to be thrown away after use."""

    def __init__(self, file: Path, tensor: ir.ExternalTensor) -> None:
        self._file = file
        self._tensor = tensor

    def __call__(self) -> ir.ExternalTensor:
        given = self._tensor
        # Without a base_dir, onnx_ir does not look at the path again.
        return ir.ExternalTensor(
            self._file, given.offset, given.nbytes, given.dtype, shape=ir.Shape(given.shape), name=given.name
        )


def _inside(path: Path, location: str) -> Path:
    home = path.absolute().parent
    if PurePath(location).is_absolute() or ".." in PurePath(location).parts:
        raise DataError(f"the external data {location!r} is outside the folder of the model")
    file = (home / location).resolve()
    if not file.is_relative_to(home.resolve()) and not file.is_relative_to(path.resolve().parent):
        raise DataError(f"the external data {location!r} is outside the folder of the model")
    if not file.is_file():
        raise DataError(f"the external data {location!r} is missing")
    return file


def _require_whole(tensor: ir.ExternalTensor, file: Path) -> None:
    offset, length, wanted = tensor.offset or 0, tensor.length or tensor.nbytes, tensor.nbytes
    what = f"the data of {tensor.name!r}"
    if length != wanted or offset < 0:
        raise DataError(f"{what} is {length} bytes from {offset} on, wanted {wanted} for {tensor.dtype.name} {tensor.shape}")
    size = file.stat().st_size
    if size < offset + wanted:
        raise DataError(f"the external data {str(tensor.location)!r} has {size} bytes, {tensor.name!r} wants {offset + wanted}")


def external_files(model: ir.Model) -> list[str]:
    """Return the names of the files that hold the model's external data, relative to the model's folder."""
    initializers = (value.const_value for graph in _graphs(model) for value in graph.initializers.values())
    attributes = (attribute for node in _nodes(model) for attribute in node.attributes.values())
    inline = (attribute.value for attribute in attributes if attribute.type is ir.AttributeType.TENSOR)
    stored = (tensor for tensor in itertools.chain(initializers, inline) if isinstance(tensor, ir.LazyTensor))
    return sorted({str(tensor.meta[LOCATION]) for tensor in stored if LOCATION in tensor.meta})
