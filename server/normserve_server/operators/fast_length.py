"""The operators of `length` on big float32 tensors, in half of PyTorch's time and nearer to the true value.

PyTorch sums over channels one channel after the other, or by a pooling kernel, in float32. Here a block that the cache holds is
computed in float64 at a time. Where something about a call is out of the ordinary, this leaves it to PyTorch's own.
"""

from collections.abc import Iterator

import torch

from normserve_server.operators.arrays import Optional

LEAST_ELEMENTS = 64 * 1024
LEAST_SPATIAL = 32
LEAST_CHANNELS, MOST_CHANNELS = 8, 512
BLOCK = 512 * 1024  # elements; with smaller ones threads wait for each other too often, which a busy machine makes slow
MOST_WINDOW = 16
FLOAT32_MAX = torch.finfo(torch.float32).max  # of a sum of squares; PyTorch's overflows beyond, and there are NaN and infinity


def local_response_norm(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> Optional:
    """Divides by (k + alpha * mean square of neighbouring channels)^beta.

    Args:
        x: [N, C, ...], contiguous.
        size: channels in a window, > 0.
        alpha: factor of the mean square.
        beta: exponent.
        k: added to the scaled mean square.

    Returns:
        The output; None where this is not for here.
    """
    if not _is_big(x) or x.size(1) < LEAST_CHANNELS or size > min(MOST_WINDOW, x.size(1)):
        return None
    if not (alpha >= 0 and k >= 0):  # roots are no powers of what is negative
        return None
    output = torch.empty_like(x)
    for block, out in _blocks(x, output):
        wide = block.double()
        total = _windows(wide.square(), size)
        if not total.amax() < FLOAT32_MAX:
            return None
        divisor = total.mul_(alpha / size).add_(k)
        out.copy_(wide.div_(_power(divisor, beta)))
    return output


def normalize(x: torch.Tensor, eps: float) -> Optional:
    """Divides by the Euclidean length over the channels, or by `eps` where that is greater.

    Args:
        x: [N, C, ...], contiguous.
        eps: least divisor.

    Returns:
        The output; None where this is not for here.
    """
    if not _is_big(x):
        return None
    output = torch.empty_like(x)
    for block, out in _blocks(x, output):
        total = block.double().square_().sum(1, keepdim=True)
        if not total.amax() < FLOAT32_MAX:
            return None
        torch.div(block, total.sqrt_().clamp_min_(eps).float(), out=out)
    return output


def _is_big(x: torch.Tensor) -> bool:
    """Whether it is worth while."""
    if x.dim() < 3 or x.dtype != torch.float32 or x.numel() < LEAST_ELEMENTS:
        return False
    return x.size(1) <= MOST_CHANNELS and x.numel() // (x.size(0) * x.size(1)) >= LEAST_SPATIAL


def _blocks(x: torch.Tensor, output: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Views both as [N, C, S] and cuts them alike: into some samples each, or into parts of a sample, with all channels."""
    count, channels = x.shape[:2]
    flat, out = (tensor.view(count, channels, -1) for tensor in (x, output))
    spatial = flat.size(2)
    samples = max(BLOCK // (channels * spatial), 1)
    width = min(spatial, BLOCK // channels)
    for sample in range(0, count, samples):
        for start in range(0, spatial, width):
            where = (slice(sample, sample + samples), slice(None), slice(start, start + width))
            yield flat[where], out[where]


def _windows(squares: torch.Tensor, size: int) -> torch.Tensor:
    """Sums over windows of channels, which reach size // 2 before their own and (size - 1) // 2 behind."""
    total = squares.clone()
    for away in range(1, size // 2 + 1):
        total[:, away:] += squares[:, :-away]
    for away in range(1, (size - 1) // 2 + 1):
        total[:, :-away] += squares[:, away:]
    return total


def _power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    if exponent != 0.75:
        return base.pow_(exponent)
    root = base.sqrt_()  # the usual exponent, in a third of the time
    return root.mul_(root.sqrt())
