"""Operators that normalize each sample by itself."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from normserve_proto.tensors import Array

from normserve_server.errors import InvalidRequestError
from normserve_server.operators.arrays import Given, Normalized, Optional, array, on, operator, parameter, tensor

MOST_AXES = 64  # of a tensor


@operator
def layer_norm(
    input: Given,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> Normalized[Given]:
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
    x, w, b = tensor(input), parameter("weight", weight, input), parameter("bias", bias, input)
    shape = _extents(normalized_shape)
    return Normalized(array(on(input, torch.layer_norm, x, shape, w, b, eps), input.dtype, input))


@operator
def group_norm(
    input: Given,  # noqa: A002
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> Normalized[Given]:
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
    x, w, b = tensor(input), parameter("weight", weight, input), parameter("bias", bias, input)
    if num_groups <= 0:
        raise InvalidRequestError(f"num_groups must be > 0, got {num_groups}")
    return Normalized(array(on(input, F.group_norm, x, num_groups, w, b, eps), input.dtype, input))


@operator
def rms_norm(
    input: Given,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
) -> Normalized[Given]:
    """torch.nn.functional.rms_norm: divides by the root mean square over the trailing axes (Zhang and Sennrich 2019).

    Args:
        input: its trailing extents are `normalized_shape`.
        normalized_shape: at least one extent.
        weight: shape `normalized_shape`; None for 1.
        eps: added to the mean square; None for the machine epsilon of the computing type, that is float32's for FP16 and BF16.

    Raises:
        InvalidRequestError: shapes or dtypes do not fit.
    """
    x, w = tensor(input), parameter("weight", weight, input)
    shape = _extents(normalized_shape)
    return Normalized(array(on(input, _rms_norm, x, shape, w, eps), input.dtype, input))


def _rms_norm(x: torch.Tensor, shape: list[int], w: Optional, eps: float | None) -> torch.Tensor:
    if w is None or list(w.shape) != shape:  # which PyTorch refuses in its own words
        return torch.rms_norm(x, shape, w, eps)
    # Scaled as PyTorch does it, but in place, which spares another big tensor.
    return torch.rms_norm(x, shape, None, eps).mul_(w)


def _extents(given: Sequence[int]) -> list[int]:
    if len(given) > MOST_AXES:  # which PyTorch would refuse, too, but after much reading and writing
        raise InvalidRequestError(f"normalized_shape has at most {MOST_AXES} extents, got {len(given)}")
    return list(given)
