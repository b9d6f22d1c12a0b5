"""From what is given, numpy's arrays or tensors on a device, to what is computed with, torch's tensors there; and back."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, Generic, NamedTuple, ParamSpec, TypeAlias, TypeVar

import numpy as np
import torch
from normserve_proto.tensors import DTYPES, Array, datatype_of

from normserve_server.errors import InvalidRequestError
from normserve_server.operators.device import TYPES, DeviceTensor

# Tensors are views of the message that came, which is read-only; nothing here writes to them. PyTorch warns of that once.
with warnings.catch_warnings(action="ignore"):
    torch.from_numpy(np.frombuffer(bytes(1), np.uint8))

Optional: TypeAlias = torch.Tensor | None
Given = TypeVar("Given", Array, DeviceTensor)
P = ParamSpec("P")
R = TypeVar("R")

_HALVES = ("FP16", "BF16")
_FLOATS = (*_HALVES, "FP32", "FP64")
_FP16, _BF16, _FP32 = DTYPES["FP16"], DTYPES["BF16"], DTYPES["FP32"]
_REFUSALS = (ValueError, RuntimeError, IndexError, TypeError, OverflowError)


class Normalized(NamedTuple, Generic[Given]):
    """What an operator gives, all of it where its input is.

    Attributes:
        output: dtype and shape of the input.
        running_mean: updated, shape [C]; None where there was nothing to update. `running_var` likewise.
    """

    output: Given
    running_mean: Given | None = None
    running_var: Given | None = None


def operator(compute: Callable[P, R]) -> Callable[P, R]:
    """Makes an operator of a function: what torch refuses in it is an InvalidRequestError with torch's words."""

    @wraps(compute)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return compute(*args, **kwargs)
        except (torch.OutOfMemoryError, torch.AcceleratorError):  # which are the device's
            raise
        except _REFUSALS as error:
            raise InvalidRequestError(str(error)) from None

    return computed


def on(input: Array | DeviceTensor, compute: Callable[..., R], *args: Any) -> R:  # noqa: A002
    """Computes with torch where `input` is."""
    return input.crossing.run(lambda: compute(*args)) if isinstance(input, DeviceTensor) else compute(*args)


def tensor(input: Array | DeviceTensor) -> torch.Tensor:  # noqa: A002
    """Gives what is to be normalized as the type it is computed in; a view where that is its own.

    Raises:
        InvalidRequestError: the dtype is not one that is computed in.
    """
    if isinstance(input, DeviceTensor):
        return _wide(input)
    if input.dtype is not _FP32 and (datatype := datatype_of(input)) not in _FLOATS:
        raise InvalidRequestError(f"input is one of {', '.join(_FLOATS)}, got {datatype}")
    return _tensor(input)


def parameter(name: str, given: Array | None, input: Array | DeviceTensor) -> Optional:  # noqa: A002
    """Gives a parameter of an operator likewise, where the input is.

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
        _check_beside(name, datatype_of(given), datatype_of(np.empty(0, input.dtype)))
    return _wide(input.crossing.put(given)) if isinstance(input, DeviceTensor) else _tensor(given)


def statistic(name: str, given: Array | None, input: Array | DeviceTensor, *, written: bool) -> Optional:  # noqa: A002
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


def array(made: torch.Tensor, dtype: np.dtype[Any], input: Given) -> Given:  # noqa: A002
    """Rounds to the dtype that came in, and gives it as `input` was given."""
    if isinstance(input, DeviceTensor):
        return DeviceTensor(input.crossing.run(lambda: made.to(TYPES[dtype])), input.crossing)
    if dtype is _FP32:
        return made.numpy()
    if dtype == _BF16:
        return made.bfloat16().view(torch.int16).numpy().view(dtype)
    return made.half().numpy() if dtype == _FP16 else made.numpy()


def _wide(given: DeviceTensor) -> torch.Tensor:
    half = given.tensor.dtype in (torch.float16, torch.bfloat16)
    return given.crossing.run(given.tensor.float) if half else given.tensor


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
