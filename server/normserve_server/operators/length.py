"""Operators that divide by a length: of neighbouring channels, or along one axis."""

import torch.nn.functional as F

from normserve_server.errors import InvalidRequestError
from normserve_server.operators import fast_length
from normserve_server.operators.arrays import Given, Normalized, array, on, operator, tensor
from normserve_server.operators.device import DeviceTensor


@operator
def local_response_norm(
    input: Given,  # noqa: A002 - torch's name
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Normalized[Given]:
    """torch.nn.functional.local_response_norm: by the mean square of neighbouring channels (Krizhevsky et al. 2012).

    Divides by (k + alpha * mean)^beta. The mean is over a window that reaches size // 2 channels before its own and
    (size - 1) // 2 behind; channels beyond the ends count as zeros.

    Args:
        input: [N, C, ...], three axes or more.
        size: channels in a window, > 0.
        alpha: factor of the mean square.
        beta: exponent.
        k: added to the scaled mean square.

    Raises:
        InvalidRequestError: dtype, rank or size do not fit.
    """
    x = tensor(input)
    if size <= 0:
        raise InvalidRequestError(f"size must be > 0, got {size}")
    output = None if isinstance(input, DeviceTensor) else fast_length.local_response_norm(x, size, alpha, beta, k)
    if output is None:
        # A window that has all channels in it grows only by zeros, which torch would make room for.
        window = min(size, max(2 * x.size(1), 1)) if x.dim() > 1 else size
        output = on(input, F.local_response_norm, x, window, alpha * (window / size), beta, k)
    return Normalized(array(output, input.dtype, input))


@operator
def normalize(
    input: Given,  # noqa: A002
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
) -> Normalized[Given]:
    """torch.nn.functional.normalize: divides by the Lp norm over one axis, or by `eps` where that is greater.

    Args:
        input: any rank that has the axis.
        p: exponent of the norm; infinity and 0 as PyTorch takes them.
        dim: the axis, from -rank to rank - 1.
        eps: least divisor.

    Raises:
        InvalidRequestError: the dtype does not fit, or there is no such axis.
    """
    x = tensor(input)
    over_channels = p == 2 and dim in (1, 1 - x.dim())
    output = fast_length.normalize(x, eps) if over_channels and not isinstance(input, DeviceTensor) else None
    if output is None:
        output = on(input, F.normalize, x, p, dim, eps)
    return Normalized(array(output, input.dtype, input))
