"""Arrays in .npy files and on the terminal."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from normserve_proto import tensors
from normserve_proto.tensors import Array

from normserve.cli.console import InputError


def load(path: Path) -> Array:
    """Reads an array from a .npy file; never runs what a pickle in it says.

    Raises:
        InputError: there is no such file, it is not one, or its dtype has no name on the wire.
    """
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: wanted one array in a .npy file, got an archive")
        tensors.datatype_of(array)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: {error}") from error
    return array


def named(texts: Sequence[str]) -> dict[str, Array]:
    """Reads the arrays that `--input NAME=FILE.npy` gave.

    Raises:
        InputError: one is no such thing or is given twice; or as `load`.
    """
    given = dict(_named(text) for text in texts)
    if len(given) < len(texts):
        raise InputError(f"an input is given twice: {', '.join(texts)}")
    return given


def save(path: Path, array: Array) -> None:
    """Writes an array to a .npy file, which has no bfloat16, so that becomes float32, nor objects, so those become bytes.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            np.save(file, _storable(array), allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: {error}") from error


def described(array: Array) -> dict[str, Any]:
    """Gives an array for JSON, which has no NaN and no infinities, so those become their names."""
    data = _jsonable(_storable(array).tolist())
    return {"datatype": tensors.datatype_of(array), "shape": array.shape, "data": data}


def summary(array: Array) -> str:
    """Gives an array's first elements in one line."""
    text = np.array2string(array.reshape(-1)[:6], precision=5, separator=", ", max_line_width=10_000)
    return text if array.size <= 6 else f"{text[:-1]}, …]"


def _named(text: str) -> tuple[str, Array]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f"--input: wanted NAME=FILE.npy, got {text!r}")
    return name, load(Path(path))


def _storable(array: Array) -> Array:
    match tensors.datatype_of(array):
        case "BF16":
            return array.astype(np.float32)
        case "BYTES":
            return array.astype(np.bytes_)
    return array


def _jsonable(value: Any) -> Any:
    match value:
        case list():
            return [_jsonable(element) for element in value]
        case bytes():
            return value.decode(errors="replace")
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
