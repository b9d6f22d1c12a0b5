"""What `--input-normalization` and `--input-dtype` say.

One option holds both, `--input-normalization 'mean=123.675,116.28,103.53 std=58.395,57.12,57.375'`, or it is given twice, once
with `mean=...` and once with `std=...`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from normserve_proto import tensors

from normserve.cli.console import InputError

if TYPE_CHECKING:
    from normserve_models.normalize_input import Normalization

OPTION = "--input-normalization"
EXAMPLE = "mean=123.675,116.28,103.53 std=58.395,57.12,57.375"
KEYS = ("mean", "std")
DATATYPES = ("UINT8", "INT8", "UINT16", "FP16", "FP32")

Texts = Annotated[
    list[str] | None,
    typer.Option(
        OPTION,
        metavar="'mean=M,.. std=S,..'",
        help="Put (x - mean) / std into the first layer, in the units of what callers send: 0 to 255 for bytes.",
    ),
]
Dtype = Annotated[str | None, typer.Option("--input-dtype", metavar="DTYPE", help="What callers send, such as uint8.")]

_AROUND_SIGNS = re.compile(r"\s*([=,])\s*")
_BETWEEN = re.compile(r"[\s;]+")


@dataclass(frozen=True)
class InputNormalization:
    """y = (x - mean) / std, in the units of what callers send.

    Attributes:
        mean: One value a channel, or one for all.
        std: One value a channel, or one for all.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


def asked(texts: Sequence[str] | None, dtype: str | None) -> "Normalization | None":
    """Reads both options into what the folding package takes.

    Raises:
        InputError: As `parse` and `parse_dtype`; or a type is given and no normalization.
    """
    import onnx_ir as ir
    from normserve_models.normalize_input import Normalization

    parsed, kind = parse(texts or ()), parse_dtype(dtype)
    if parsed is None and kind is not None:
        raise InputError(f"--input-dtype needs {OPTION}: it is the type in front of that")
    if parsed is None:
        return None
    return Normalization(parsed.mean, parsed.std, None if kind is None else ir.DataType.from_numpy(kind))


def parse(texts: Sequence[str]) -> InputNormalization | None:
    """Reads what was given with each `--input-normalization`; None where it was not given.

    Raises:
        InputError: mean or std is lacking, given twice or no list of numbers, or there is something else.
    """
    parts = [part for text in texts for part in _BETWEEN.split(_AROUND_SIGNS.sub(r"\1", text)) if part]
    given: dict[str, tuple[float, ...]] = {}
    for part in parts:
        key, sign, numbers = part.partition("=")
        if key not in KEYS or not sign:
            raise InputError(f"{OPTION}: wanted mean=... and std=..., such as '{EXAMPLE}', got {part!r}")
        if key in given:
            raise InputError(f"{OPTION}: {key} is given twice")
        given[key] = _numbers(key, numbers)
    if not texts:
        return None
    for key in KEYS:
        if key not in given:
            raise InputError(f"{OPTION}: {key} is lacking, wanted mean=... and std=..., such as '{EXAMPLE}'")
    return InputNormalization(**given)


def _numbers(key: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise InputError(f"{OPTION}: {key} has to be numbers with commas between them, got {text!r}") from error


def parse_dtype(text: str | None) -> np.dtype[Any] | None:
    """Reads `--input-dtype`: numpy's name of a type, or the wire's; None where it was not given.

    Raises:
        InputError: it is none of those that images and sounds come in.
    """
    if text is None:
        return None
    names = {name: dtype for datatype in DATATYPES for dtype in [tensors.DTYPES[datatype]] for name in (datatype, dtype.name)}
    if text not in names:
        raise InputError(f"--input-dtype: wanted {', '.join(names)}, got {text!r}")
    return names[text]
