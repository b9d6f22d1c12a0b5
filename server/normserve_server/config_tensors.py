"""`input` and `output`: what a config says of a model's tensors before the model's file is known."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import DTYPES

from normserve_server import model_files
from normserve_server.errors import LoadError
from normserve_server.reshaping import Reshape
from normserve_server.servable import DYNAMIC

Declared: TypeAlias = pb.ModelInput | pb.ModelOutput

_WIRE_NAMES = {"BYTES": "STRING"}  # where ModelConfig's name of a datatype is not the wire's
DATA_TYPES: Mapping[str, pb.DataType] = {name: getattr(pb, f"TYPE_{_WIRE_NAMES.get(name, name)}") for name in DTYPES}
_FORMATS = {pb.ModelInput.FORMAT_NHWC, pb.ModelInput.FORMAT_NCHW}


def check(kind: str, tensors: Sequence[Declared]) -> None:
    """Refuses declarations that no model can have.

    Args:
        kind: "input" or "output".
        tensors: the declarations.

    Raises:
        LoadError: a name is missing or there twice; a datatype, extent or reshape cannot be.
    """
    names = [tensor.name for tensor in tensors]
    for position, name in enumerate(names):
        if not name:
            raise LoadError(f"{kind}[{position}].name is missing")
        if names.index(name) < position:
            raise LoadError(f"{kind} '{name}' is declared twice")
    for tensor in tensors:
        _check_tensor(f"{kind} '{tensor.name}'", tensor)


def check_formats(inputs: Sequence[pb.ModelInput]) -> None:
    """Refuses image formats of what is no image.

    Raises:
        LoadError: an unknown format, or one of images where `dims` are not three.
    """
    for tensor in inputs:
        if tensor.format not in pb.ModelInput.Format.values():
            raise LoadError(f"input '{tensor.name}': format {tensor.format} is unknown")
        if tensor.format in _FORMATS and len(tensor.dims) != 3:
            raise LoadError(
                f"input '{tensor.name}': {pb.ModelInput.Format.Name(tensor.format)} takes 3 dims, got {list(tensor.dims)}"
            )


def reshapes(tensors: Sequence[Declared]) -> dict[str, Reshape]:
    """What clients see in another shape than the model's file has it, by name."""
    return {
        tensor.name: Reshape(tuple(tensor.dims), tuple(tensor.reshape.shape))
        for tensor in tensors
        if tensor.HasField("reshape")
    }


def labels(folder: Path, outputs: Sequence[pb.ModelOutput]) -> dict[str, tuple[str, ...]]:
    """Reads the label files, one label a line.

    Args:
        folder: the model's.
        outputs: the declarations.

    Returns:
        The labels by output.

    Raises:
        LoadError: a file is not a plain name, is not there, or is not UTF-8.
    """
    return {tensor.name: _lines(folder, tensor) for tensor in outputs if tensor.label_filename}


def fits(extents: Sequence[int], dims: Sequence[int]) -> bool:
    """Whether `dims` are what `extents`, `DYNAMIC` where any is accepted, ask for."""
    return len(dims) == len(extents) and all(extent in {DYNAMIC, dim} for extent, dim in zip(extents, dims, strict=True))


def _lines(folder: Path, tensor: pb.ModelOutput) -> tuple[str, ...]:
    field = f"output '{tensor.name}': label_filename"
    try:
        text = model_files.read(folder, tensor.label_filename, field).decode()
    except UnicodeDecodeError as error:
        raise LoadError(f"{field} '{tensor.label_filename}' is not UTF-8: {error}") from None
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return tuple(lines) if text else ()


def _check_tensor(place: str, tensor: Declared) -> None:
    if tensor.data_type not in pb.DataType.values():
        raise LoadError(f"{place}: data_type {tensor.data_type} is unknown")
    for field, extents in (("dims", tensor.dims), ("reshape.shape", tensor.reshape.shape)):
        if any(extent != DYNAMIC and extent < 1 for extent in extents):
            raise LoadError(f"{place}: {field} are >= 1, or {DYNAMIC} for any, got {list(extents)}")
    if tensor.HasField("reshape"):
        _check_reshape(place, tensor)


def _check_reshape(place: str, tensor: Declared) -> None:
    """Between two free extents, and around them, there are as many elements on both sides."""
    if _segments(tensor.dims) != _segments(tensor.reshape.shape):
        raise LoadError(f"{place}: dims {list(tensor.dims)} do not reshape to {list(tensor.reshape.shape)}")


def _segments(extents: Sequence[int]) -> list[int]:
    free = [position for position, extent in enumerate(extents) if extent == DYNAMIC]
    starts, stops = [0, *(position + 1 for position in free)], [*free, len(extents)]
    return [math.prod(extents[start:stop]) for start, stop in zip(starts, stops, strict=True)]
