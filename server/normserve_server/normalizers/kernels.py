"""PyTorch's kernels of batch and instance norm, taken apart: the statistics of an input, their merge, the normalized output.

Put together again they give bit for bit what torch.nn's layers give; FP16 and BF16 inputs are computed in float32 and rounded
once. What PyTorch refuses it refuses here with the same words, as `InvalidRequestError`.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F
from normserve_proto.tensors import Array

from normserve_server.errors import InvalidRequestError

# Tensors are views of the message that came, which is read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)


T = TypeVar("T")


class Statistics(NamedTuple):
    """What an input says of its channels, in the dtype that it is computed in.

    Attributes:
        mean: shape [C], or [N, C] where each sample has its own.
        var: likewise, the unbiased one.
    """

    mean: Array
    var: Array


def batch_statistics(x: Array, features: int) -> Statistics | None:
    """The statistics by which a batch [N, C, ...] moves the running ones; None where it is empty and does not.

    Raises:
        InvalidRequestError: there is one value per channel, or C is not `features`.
    """

    def compute() -> Statistics | None:
        tensor = _tensor(x)
        _refuse_single(tensor, tensor.numel() // max(tensor.shape[1], 1), "value per channel")
        return _statistics(tensor, features)

    return _refused(compute)


def instance_statistics(x: Array, features: int) -> Statistics | None:
    """The statistics of each sample of [N, C, ...], of shape [N, C]; None where samples have no elements.

    Raises:
        InvalidRequestError: there is one spatial element, or C is not `features`.
    """

    def compute() -> Statistics | None:
        tensor = _tensor(x)
        _refuse_single(tensor, math.prod(tensor.shape[2:]), "spatial element")
        n, c = tensor.shape[:2]
        found = _statistics(tensor.reshape(1, n * c, *tensor.shape[2:]), n * features)
        return found and Statistics(found.mean.reshape(n, c), found.var.reshape(n, c))

    return _refused(compute)


def merge(statistics: Statistics, mean: Array, var: Array, momentum: float) -> Statistics:
    """What the kernel makes of running statistics, in their dtype and with its roundings: those of mean and var differ."""
    kind = mean.dtype.type
    new, old = kind(momentum), kind(1) - kind(momentum)
    with np.errstate(all="ignore"):
        merged = np.float64(new) * statistics.var + old * var
        return Statistics(new * statistics.mean + old * mean, merged.astype(kind))


def mean_over_samples(array: Array) -> Array:
    """The mean over the first axis, summed in PyTorch's order."""
    averaged: Array = torch.from_numpy(array).mean(0).numpy()
    return averaged


def batch_norm(x: Array, running: Statistics | None, weight: Array | None, bias: Array | None, eps: float) -> Array:
    """Normalizes by the running statistics, or by the input's own where they are None.

    Raises:
        InvalidRequestError: what PyTorch refuses.
    """
    mean, var, w, b = _all(running, weight, bias)
    return _output(lambda t: F.batch_norm(t, mean, var, w, b, training=running is None, eps=eps), x)


def instance_norm(x: Array, running: Statistics | None, weight: Array | None, bias: Array | None, eps: float) -> Array:
    """Likewise, each sample of [N, C, ...] by itself.

    Raises:
        InvalidRequestError: what PyTorch refuses.
    """
    mean, var, w, b = _all(running, weight, bias)
    return _output(lambda t: F.instance_norm(t, mean, var, w, b, use_input_stats=running is None, eps=eps), x)


def _statistics(tensor: torch.Tensor, features: int) -> Statistics | None:
    # The kernel gives the unbiased variance only as an update; one with the whole weight, of -0, is the variance itself.
    mean, var = (torch.full((features,), -0.0, dtype=tensor.dtype) for _ in range(2))
    if not tensor.numel():
        return None
    torch.batch_norm_update_stats(tensor, mean, var, 1.0)
    return Statistics(mean.numpy(), var.numpy())


def _refuse_single(tensor: torch.Tensor, count: int, what: str) -> None:
    if count == 1:
        raise ValueError(f"Expected more than 1 {what} when training, got input size {tensor.shape}")


def _all(running: Statistics | None, *parameters: Array | None) -> list[torch.Tensor | None]:
    arrays = (*(running or (None, None)), *parameters)
    return [None if array is None else torch.from_numpy(array) for array in arrays]


def _output(compute: Callable[[torch.Tensor], torch.Tensor], x: Array) -> Array:
    return _refused(lambda: _array(compute(_tensor(x)), x.dtype))


def _refused(compute: Callable[[], T]) -> T:
    try:
        with torch.inference_mode():
            return compute()
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        raise InvalidRequestError(str(error)) from None


def _tensor(array: Array) -> torch.Tensor:
    aligned = array if array.flags.aligned and array.flags.c_contiguous else array.copy()
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(aligned.view(np.int16)).view(torch.bfloat16).float()
    tensor = torch.from_numpy(aligned)
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _array(tensor: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    if dtype == ml_dtypes.bfloat16:
        return tensor.bfloat16().view(torch.int16).numpy().view(dtype)
    return tensor.half().numpy() if dtype == np.float16 else tensor.numpy()
