"""PyTorch's normalization operators on numpy arrays: its kernels, its semantics, its words when it refuses.

This is the only file of the service that knows torch. FP16 and BF16 compute in float32 and are rounded once. What PyTorch does
in place, updating running statistics, is done on copies, and the copies are returned.

Everywhere: `input` is FP16, BF16, FP32 or FP64; parameters and statistics have its dtype, or FP32 beside FP16 and BF16; and
`InvalidRequestError` carries what PyTorch says when it refuses.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F
from normserve_proto.tensors import DTYPES, Array, datatype_of

from normserve_server.errors import InvalidRequestError

# Tensors are views of the message that came, which is read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)

_HALVES = ("FP16", "BF16")
_FLOATS = (*_HALVES, "FP32", "FP64")


class Normalized(NamedTuple):
    """What an operator gives.

    Attributes:
        output: dtype and shape of the input.
        running_mean: updated, shape [C]; None where there was nothing to update. `running_var` likewise.
    """

    output: Array
    running_mean: Array | None = None
    running_var: Array | None = None


def batch_norm(
    input: Array,  # noqa: A002 - torch's name
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Normalized:
    """torch.nn.functional.batch_norm: every channel of [N, C, ...] by itself (Ioffe and Szegedy 2015).

    In training it normalizes by the batch's biased variance and updates the running variance with the unbiased one.

    Args:
        input: two axes or more.
        running_mean: shape [C]; required unless `training`.
        running_var: likewise.
        weight: shape [C]; None for 1.
        bias: shape [C]; None for 0.
        training: normalize by the batch's statistics, and update the running ones if there are any.
        momentum: weight of the batch in the update, in [0, 1].
        eps: added to the variance; > 0 in training, else >= 0.

    Raises:
        InvalidRequestError: shapes, dtypes or ranges do not fit.
    """
    _check(input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    _check_momentum(momentum)

    def compute(x: torch.Tensor, mean: _Optional, var: _Optional, w: _Optional, b: _Optional) -> torch.Tensor:
        return F.batch_norm(x, mean, var, w, b, training, momentum, eps)

    return _with_statistics(compute, input, (running_mean, running_var), (weight, bias), updates=training)


def instance_norm(
    input: Array,  # noqa: A002
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Normalized:
    """torch.nn.functional.instance_norm: every channel of every sample by itself (Ulyanov et al. 2016).

    The running statistics are updated with the mean, over the samples, of their means and unbiased variances.

    Args:
        input: [N, C, ...] or, for one sample, as PyTorch takes it.
        running_mean: shape [C]; required unless `use_input_stats`.
        running_var: likewise.
        weight: shape [C]; None for 1.
        bias: shape [C]; None for 0.
        use_input_stats: normalize by the input's own statistics, and update the running ones if there are any.
        momentum: weight of the input in the update, in [0, 1].
        eps: added to the variance.

    Raises:
        InvalidRequestError: shapes, dtypes or ranges do not fit.
    """
    _check(input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    _check_momentum(momentum)

    def compute(x: torch.Tensor, mean: _Optional, var: _Optional, w: _Optional, b: _Optional) -> torch.Tensor:
        return F.instance_norm(x, mean, var, w, b, use_input_stats, momentum, eps)

    return _with_statistics(compute, input, (running_mean, running_var), (weight, bias), updates=use_input_stats)


def layer_norm(
    input: Array,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> Normalized:
    """torch.nn.functional.layer_norm: over the trailing axes, with the biased variance (Ba et al. 2016).

    Args:
        input: its trailing extents are `normalized_shape`.
        normalized_shape: at least one extent.
        weight: shape `normalized_shape`; None for 1.
        bias: shape `normalized_shape`; None for 0.
        eps: added to the variance.

    Raises:
        InvalidRequestError: shapes or dtypes do not fit.
    """
    _check(input, weight=weight, bias=bias)
    return _plain(lambda x, w, b: F.layer_norm(x, list(normalized_shape), w, b, eps), input, weight, bias)


def group_norm(
    input: Array,  # noqa: A002
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> Normalized:
    """torch.nn.functional.group_norm: every group of channels of every sample, with the biased variance (Wu and He 2018).

    Args:
        input: [N, C, ...].
        num_groups: > 0, divides C.
        weight: shape [C]; None for 1.
        bias: shape [C]; None for 0.
        eps: added to the variance.

    Raises:
        InvalidRequestError: shapes, dtypes or the number of groups do not fit.
    """
    _check(input, weight=weight, bias=bias)
    if num_groups <= 0:
        raise InvalidRequestError(f"num_groups must be > 0, got {num_groups}")
    return _plain(lambda x, w, b: F.group_norm(x, num_groups, w, b, eps), input, weight, bias)


def rms_norm(
    input: Array,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
) -> Normalized:
    """torch.nn.functional.rms_norm: divides by the root mean square over the trailing axes (Zhang and Sennrich 2019).

    Args:
        input: its trailing extents are `normalized_shape`.
        normalized_shape: at least one extent.
        weight: shape `normalized_shape`; None for 1.
        eps: added to the mean square; None for the machine epsilon of the computing type, that is float32's for FP16 and BF16.

    Raises:
        InvalidRequestError: shapes or dtypes do not fit.
    """
    _check(input, weight=weight)
    return _plain(lambda x, w, _: F.rms_norm(x, list(normalized_shape), w, eps), input, weight, None)


def warm_up() -> None:
    """Pays the first call's costs of every operator."""
    x = np.ones((2, 2, 2), np.float32)
    for outcome in (batch_norm(x, None, None, training=True), instance_norm(x), layer_norm(x, (2,)), group_norm(x, 1)):
        rms_norm(outcome.output, (2,))


_Optional = torch.Tensor | None


def _with_statistics(
    compute: Callable[[torch.Tensor, _Optional, _Optional, _Optional, _Optional], torch.Tensor],
    input: Array,  # noqa: A002
    statistics: tuple[Array | None, Array | None],
    parameters: tuple[Array | None, Array | None],
    *,
    updates: bool,
) -> Normalized:
    # Copies, because PyTorch writes the update into them.
    mean, var = (None if array is None else _tensor(array.copy()) for array in statistics)
    normalized = _plain(lambda x, w, b: compute(x, mean, var, w, b), input, *parameters)
    if not updates or mean is None or var is None:
        return normalized
    dtypes = [array.dtype for array in statistics if array is not None]
    return Normalized(normalized.output, _array(mean, dtypes[0]), _array(var, dtypes[1]))


def _plain(
    compute: Callable[[torch.Tensor, _Optional, _Optional], torch.Tensor],
    input: Array,  # noqa: A002
    weight: Array | None,
    bias: Array | None,
) -> Normalized:
    parameters = [None if array is None else _tensor(array) for array in (weight, bias)]
    try:
        with torch.inference_mode():
            output = compute(_tensor(input), *parameters)
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        raise InvalidRequestError(str(error)) from None
    return Normalized(_array(output, input.dtype))


def _check(input: Array, **others: Array | None) -> None:  # noqa: A002
    datatype = datatype_of(input)
    if datatype not in _FLOATS:
        raise InvalidRequestError(f"input is one of {', '.join(_FLOATS)}, got {datatype}")
    allowed = (datatype, "FP32") if datatype in _HALVES else (datatype,)
    for name, array in others.items():
        if array is not None and datatype_of(array) not in allowed:
            raise InvalidRequestError(f"{name} beside {datatype} input is {' or '.join(allowed)}, got {datatype_of(array)}")
    _check_ranks({name: array for name, array in others.items() if name.startswith("running_")})


def _check_ranks(statistics: Mapping[str, Array | None]) -> None:
    for name, array in statistics.items():
        if array is not None and array.ndim != 1:
            raise InvalidRequestError(f"{name} has one axis, the channels, got shape {list(array.shape)}")


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum <= 1:
        raise InvalidRequestError(f"momentum is in [0, 1], got {momentum}")


def _tensor(array: Array) -> torch.Tensor:
    """As the type it is computed in; a view where that is its own."""
    aligned = array if array.flags.aligned and array.flags.c_contiguous else array.copy()
    if array.dtype == DTYPES["BF16"]:
        return torch.from_numpy(aligned.view(np.int16)).view(torch.bfloat16).float()
    tensor = torch.from_numpy(aligned)
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _array(tensor: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    """Rounded to the dtype it came in."""
    if dtype == ml_dtypes.bfloat16:
        return tensor.bfloat16().view(torch.int16).numpy().view(dtype)
    return tensor.half().numpy() if dtype == np.float16 else tensor.numpy()
