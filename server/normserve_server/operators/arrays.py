"""Between numpy's arrays and torch's tensors: what an operator takes, and what it gives."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import numpy as np
import torch
from normserve_proto.tensors import DTYPES, Array, datatype_of

from normserve_server.errors import InvalidRequestError

# Tensors are views of the message that came, which is read-only; nothing here writes to them. PyTorch warns of that once.
with warnings.catch_warnings(action="ignore"):
    torch.from_numpy(np.frombuffer(bytes(1), np.uint8))

Optional: TypeAlias = torch.Tensor | None
P = ParamSpec("P")

_HALVES = ("FP16", "BF16")
_FLOATS = (*_HALVES, "FP32", "FP64")
_FP16, _BF16, _FP32 = DTYPES["FP16"], DTYPES["BF16"], DTYPES["FP32"]
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


def operator(compute: Callable[P, Normalized]) -> Callable[P, Normalized]:
    """Makes an operator of a function: what torch refuses in it is an InvalidRequestError with torch's words."""

    @wraps(compute)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Normalized:
        try:
            return compute(*args, **kwargs)
        except _REFUSALS as error:
            raise InvalidRequestError(str(error)) from None

    return computed


def tensor(input: Array) -> torch.Tensor:  # noqa: A002
    """Gives what is to be normalized as the type it is computed in; a view where that is its own.

    Raises:
        InvalidRequestError: the dtype is not one that is computed in.
    """
    if input.dtype is not _FP32 and (datatype := datatype_of(input)) not in _FLOATS:
        raise InvalidRequestError(f"input is one of {', '.join(_FLOATS)}, got {datatype}")
    return _tensor(input)


def parameter(name: str, given: Array | None, input: Array) -> Optional:  # noqa: A002
    """Gives a parameter of an operator likewise.

    Args:
        name: what errors call it.
        given: the parameter; None where it is absent.
        input: what it stands beside.

    Raises:
        InvalidRequestError: a dtype that does not stand beside the input's.
    """
    if given is None:
        return None
    if given.dtype is not input.dtype:
        _check_beside(name, datatype_of(given), datatype_of(input))
    return _tensor(given)


def statistic(name: str, given: Array | None, input: Array, *, written: bool) -> Optional:  # noqa: A002
    """Gives a running statistic likewise.

    Args:
        name: what errors call it.
        given: shape [C]; None where it is absent.
        input: what it stands beside.
        written: gives a copy, because an update will be written into it.

    Raises:
        InvalidRequestError: a dtype that does not stand beside the input's, or more or fewer axes than one.
    """
    if given is not None and given.ndim != 1:
        raise InvalidRequestError(f"{name} has one axis, the channels, got shape {list(given.shape)}")
    return parameter(name, given.copy() if written and given is not None else given, input)


def array(made: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    """Rounds to the dtype that came in."""
    if dtype is _FP32:
        return made.numpy()
    if dtype == _BF16:
        return made.bfloat16().view(torch.int16).numpy().view(dtype)
    return made.half().numpy() if dtype == _FP16 else made.numpy()


def _tensor(array: Array) -> torch.Tensor:
    flags, dtype = array.flags, array.dtype
    if not (flags.aligned and flags.c_contiguous):
        array = array.copy()
    if dtype is _FP32:  # the usual case first: each step between numpy and torch counts beside a kernel of 100 us
        return torch.from_numpy(array)
    if dtype == _BF16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float()
    made = torch.from_numpy(array)
    return made.float() if dtype == _FP16 else made


def _check_beside(name: str, datatype: str, input_datatype: str) -> None:
    allowed = (input_datatype, "FP32") if input_datatype in _HALVES else (input_datatype,)
    if datatype not in allowed:
        raise InvalidRequestError(f"{name} beside {input_datatype} input is {' or '.join(allowed)}, got {datatype}")
