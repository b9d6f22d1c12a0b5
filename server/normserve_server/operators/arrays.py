"""Between numpy's arrays and torch's tensors: what an operator takes, and what it gives."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
import torch
from normserve_proto.tensors import DTYPES, Array, datatype_of

from normserve_server.errors import InvalidRequestError

# Tensors are views of the message that came, which is read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)

Optional: TypeAlias = torch.Tensor | None

_HALVES = ("FP16", "BF16")
_FLOATS = (*_HALVES, "FP32", "FP64")
_BF16 = DTYPES["BF16"]
_REFUSALS = (ValueError, RuntimeError, IndexError, TypeError, OverflowError)


class Normalized(NamedTuple):
    """What an operator gives.

    Attributes:
        output: dtype and shape of the input.
        running_mean: updated, shape [C]; None where there was nothing to update. `running_var` likewise.
    """

    output: Array
    running_mean: Array | None = None
    running_var: Array | None = None


def apply(
    compute: Callable[[torch.Tensor, Optional, Optional], torch.Tensor],
    input: Array,  # noqa: A002 - torch's name
    weight: Array | None = None,
    bias: Array | None = None,
) -> Normalized:
    """Computes on tensors of the computing type, and rounds once.

    Args:
        compute: from input, weight and bias to the output.
        input: an array that `check` has passed.
        weight: likewise, or absent.
        bias: likewise.

    Raises:
        InvalidRequestError: torch refuses it.
    """
    w = None if weight is None else tensor(weight)
    b = None if bias is None else tensor(bias)
    try:
        with torch.inference_mode():
            return Normalized(array(compute(tensor(input), w, b), input.dtype))
    except _REFUSALS as error:
        raise InvalidRequestError(str(error)) from None


def check(input: Array, **others: Array | None) -> None:  # noqa: A002
    """Checks dtypes, and that running statistics have one axis.

    Args:
        input: what is to be normalized.
        others: parameters and statistics, by the names that errors call them.

    Raises:
        InvalidRequestError: a dtype that is not computed in, or not beside the input's.
    """
    datatype = datatype_of(input)
    if datatype not in _FLOATS:
        raise InvalidRequestError(f"input is one of {', '.join(_FLOATS)}, got {datatype}")
    allowed = (datatype, "FP32") if datatype in _HALVES else (datatype,)
    for name, other in others.items():
        if other is None:
            continue
        if datatype_of(other) not in allowed:
            raise InvalidRequestError(f"{name} beside {datatype} input is {' or '.join(allowed)}, got {datatype_of(other)}")
        if name.startswith("running_") and other.ndim != 1:
            raise InvalidRequestError(f"{name} has one axis, the channels, got shape {list(other.shape)}")


def tensor(array: Array) -> torch.Tensor:
    """As the type it is computed in; a view where that is its own."""
    aligned = array if array.flags.aligned and array.flags.c_contiguous else array.copy()
    if array.dtype == _BF16:
        return torch.from_numpy(aligned.view(np.int16)).view(torch.bfloat16).float()
    made = torch.from_numpy(aligned)
    return made.float() if made.dtype == torch.float16 else made


def array(tensor: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    """Rounded to the dtype it came in."""
    if dtype == ml_dtypes.bfloat16:
        return tensor.bfloat16().view(torch.int16).numpy().view(dtype)
    return tensor.half().numpy() if dtype == np.float16 else tensor.numpy()
