"""Two operators on big float32 tensors, in less time than PyTorch's own kernels take, and at least as near to the true value.

PyTorch's training kernel and its instance norm, which is built on it, read a tensor one number at a time to sum it up. Here
the sums are the vectorized reductions, and the rest is what the operators are made of: an affine pass, and a group norm whose
groups are single channels. Where something about a call is out of the ordinary, this leaves it to PyTorch's own.
"""

import torch
import torch.nn.functional as F

from normserve_server.operators.arrays import Optional

# Below these PyTorch's own kernels are as fast, or a sum of few rows is not as exact as theirs.
LEAST_ELEMENTS = 64 * 1024
LEAST_SPATIAL = 32
LEAST_A_CHANNEL = 1024
_ROW = 256  # summed up in float32; the rows' sums are added in float64


def batch_norm(
    x: torch.Tensor,
    mean: Optional,
    var: Optional,
    weight: Optional,
    bias: Optional,
    momentum: float,
    eps: float,
) -> Optional:
    """batch_norm in training, by Chan, Golub and LeVeque's corrected two-pass algorithm (1983).

    The output is made from x - mean instead of x, so that nothing cancels where the mean is large.

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
    count = x.numel() // x.size(1)
    if count < LEAST_A_CHANNEL:
        return None
    rows = x.view(x.size(0), x.size(1), -1)
    near = rows.sum((0, 2)) / count
    centered = rows - near[:, None]
    rest = centered.sum((0, 2)).double() / count
    variance = (_squares(centered) / count - rest * rest).clamp_min_(0)
    if not bool(torch.isfinite(variance).all()):
        return None
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale *= weight
    shift = rest * -scale
    if bias is not None:
        shift += bias
    if mean is not None and var is not None:
        _update(mean, near.double() + rest, momentum)
        _update(var, variance * (count / (count - 1)), momentum)
    return _affine(centered, scale.float(), shift.float()).view(x.shape)


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


def _squares(rows: torch.Tensor) -> torch.Tensor:
    """Sums up the squares of each channel of [N, C, S]; float64 of shape [C]."""
    whole = rows.size(2) // _ROW * _ROW
    total = torch.zeros(rows.size(1), dtype=torch.float64)
    for part in (rows[..., :whole].unflatten(2, (-1, _ROW)), rows[..., whole:].unsqueeze(2)):
        if part.numel():
            total += torch.linalg.vector_norm(part, 2, 3).double().square_().sum((0, 2))
    return total


def _update(running: torch.Tensor, batch: torch.Tensor, momentum: float) -> None:
    running.copy_((1 - momentum) * running.double() + momentum * batch)


def _affine(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Scales and shifts each channel in one pass: batch_norm by a mean of 0 and a variance of 1."""
    return torch.batch_norm(x, scale, shift, torch.zeros_like(scale), torch.ones_like(scale), False, 0.0, 0.0, False)
