"""Two operators on big float32 tensors, in less time than PyTorch's own kernels take, and at least as near to the true value.

PyTorch's training kernel and its instance norm, which is built on it, read a tensor one number at a time to sum it up. Here
the sums are the vectorized reductions, and the rest is what the operators are made of: an affine pass, and a group norm whose
groups are single channels. Where something about a call is out of the ordinary, this leaves it to PyTorch's own.
"""

import functools
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from normserve_server.operators.arrays import Optional

Channels: TypeAlias = npt.NDArray[np.float64]

# Below these PyTorch's own kernels are as fast, or the sum of few rows, each rounded to float32, is not as exact as theirs.
LEAST_ELEMENTS = 64 * 1024
LEAST_SPATIAL = 32
LEAST_ROWS, MOST_A_ROW = 32, 1024


def batch_norm(
    x: torch.Tensor,
    mean: Optional,
    var: Optional,
    weight: Optional,
    bias: Optional,
    momentum: float,
    eps: float,
) -> Optional:
    """batch_norm in training, by Chan, Golub and LeVeque's algorithm with shifted data (1983) where the mean is large.

    The output is then made from x - mean instead of x, so that nothing cancels.

    Args:
        x: [N, C, ...], contiguous.
        mean: shape [C], updated in place.
        var: likewise.
        weight: shape [C].
        bias: shape [C].
        momentum: weight of the batch in the update, in [0, 1].
        eps: added to the variance.

    Returns:
        The output; None where this is not for here, and nothing has been touched.
    """
    if eps <= 0 or (mean is None) != (var is None) or not _is_big(x, mean, var, weight, bias):
        return None
    samples, channels = x.shape[:2]
    count = x.numel() // channels
    length = _row_length(samples, count // samples)
    if not length:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # of infinities, for which PyTorch's own kernel is left to answer
        centered, near, rest, variance = _moments(x.view(samples, channels, -1), length)
    if not np.isfinite(variance.sum()):
        return None
    if mean is not None and var is not None:
        _update(mean, near + rest, momentum)
        _update(var, variance * (count / (count - 1)), momentum)
    scale = (1 if weight is None else weight.numpy()) / np.sqrt(variance + eps)
    w, rest32 = (torch.from_numpy(given.astype(np.float32)) for given in (scale, rest))
    return torch.batch_norm(centered, w, bias, rest32, torch.ones_like(w), False, 0.0, 0.0, False).view(x.shape)


def instance_norm(x: torch.Tensor, weight: Optional, bias: Optional, eps: float) -> Optional:
    """instance_norm by the input's own statistics: group_norm with one channel a group.

    Args:
        x: [N, C, ...], contiguous.
        weight: shape [C].
        bias: shape [C].
        eps: added to the variance.

    Returns:
        The output; None where this is not for here.
    """
    return F.group_norm(x, x.size(1), weight, bias, eps) if _is_big(x, weight, bias) else None


def _is_big(x: torch.Tensor, *channels: Optional) -> bool:
    """Whether it is worth while, and every parameter fits: what does not, PyTorch refuses in its own words."""
    if x.dim() < 3 or x.dtype != torch.float32 or x.numel() < LEAST_ELEMENTS:
        return False
    if x.numel() // (x.size(0) * x.size(1)) < LEAST_SPATIAL:
        return False
    return all(channel is None or channel.shape == x.shape[1:2] for channel in channels)


def _moments(x: torch.Tensor, length: int) -> tuple[torch.Tensor, Channels, Channels, Channels]:
    """Sums up, as it is or, where a channel's mean is larger than its deviation and too much would cancel, without its mean.

    Args:
        x: [N, C, S].
        length: how many numbers are summed up in float32 before going on in float64.

    Returns:
        x - near, near, the mean of that difference, and the biased variance.
    """
    mean, variance = _sums(x, length)
    if (mean * mean <= variance).all():
        return x, np.zeros_like(mean), mean, variance
    near = mean.astype(np.float32)
    centered = x - torch.from_numpy(near)[:, None]
    return centered, near.astype(np.float64), *_sums(centered, length)


def _sums(x: torch.Tensor, length: int) -> tuple[Channels, Channels]:
    """Gives each channel's mean and biased variance."""
    count = x.size(0) * x.size(2)
    rows = x.view(x.size(0), x.size(1), -1, length)
    mean = rows.sum(3).sum((0, 2), dtype=torch.float64).numpy() / count
    lengths = torch.linalg.vector_norm(rows, 2, 3)
    squares = np.square(torch.linalg.vector_norm(lengths, 2, (0, 2), dtype=torch.float64).numpy())
    return mean, np.maximum(squares / count - mean * mean, 0)


@functools.lru_cache(maxsize=256)
def _row_length(samples: int, spatial: int) -> int:
    """How many numbers to sum up in float32 before going on in float64; 0 where they cannot be cut into such rows."""
    for pieces in range(max(-(-spatial // MOST_A_ROW), -(-LEAST_ROWS // samples)), spatial // LEAST_SPATIAL + 1):
        if spatial % pieces == 0:
            return spatial // pieces
    return 0


def _update(running: torch.Tensor, batch: Channels, momentum: float) -> None:
    array = running.numpy()
    array[...] = (1 - momentum) * array.astype(np.float64) + momentum * batch
