"""Operators that normalize each channel, over the batch or in each sample, and may keep running statistics."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from normserve_proto.tensors import Array

from normserve_server.errors import InvalidRequestError
from normserve_server.operators import fast
from normserve_server.operators.arrays import Normalized, Optional, apply, array, check, tensor


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
    check(input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    _check_momentum(momentum)

    def compute(x: torch.Tensor, mean: Optional, var: Optional, w: Optional, b: Optional) -> torch.Tensor:
        output = fast.batch_norm(x, mean, var, w, b, momentum, eps) if training else None
        return F.batch_norm(x, mean, var, w, b, training, momentum, eps) if output is None else output

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
    check(input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    _check_momentum(momentum)

    def compute(x: torch.Tensor, mean: Optional, var: Optional, w: Optional, b: Optional) -> torch.Tensor:
        plain = use_input_stats and mean is None and var is None
        output = fast.instance_norm(x, w, b, eps) if plain else None
        return F.instance_norm(x, mean, var, w, b, use_input_stats, momentum, eps) if output is None else output

    return _with_statistics(compute, input, (running_mean, running_var), (weight, bias), updates=use_input_stats)


def _with_statistics(
    compute: Callable[[torch.Tensor, Optional, Optional, Optional, Optional], torch.Tensor],
    input: Array,  # noqa: A002
    statistics: tuple[Array | None, Array | None],
    parameters: tuple[Array | None, Array | None],
    *,
    updates: bool,
) -> Normalized:
    # Copies, because the update is written into them.
    mean, var = (None if given is None else tensor(given.copy()) for given in statistics)
    normalized = apply(lambda x, w, b: compute(x, mean, var, w, b), input, *parameters)
    if not updates or mean is None or var is None:
        return normalized
    dtypes = [given.dtype for given in statistics if given is not None]
    return Normalized(normalized.output, array(mean, dtypes[0]), array(var, dtypes[1]))


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum <= 1:
        raise InvalidRequestError(f"momentum is in [0, 1], got {momentum}")
