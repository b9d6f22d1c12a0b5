"""Operators that normalize each channel, over the batch or in each sample, and may keep running statistics."""

import torch
import torch.nn.functional as F
from normserve_proto.tensors import Array

from normserve_server.errors import InvalidRequestError
from normserve_server.operators import fast
from normserve_server.operators.arrays import Given, Normalized, Optional, array, on, operator, parameter, statistic, tensor
from normserve_server.operators.device import DeviceTensor


@operator
def batch_norm(
    input: Given,  # noqa: A002 - torch's name
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Normalized[Given]:
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
    _check_momentum(momentum)
    x, w, b = tensor(input), parameter("weight", weight, input), parameter("bias", bias, input)
    mean = statistic("running_mean", running_mean, input, written=training)
    var = statistic("running_var", running_var, input, written=training)
    if not training and not eps < 0:
        evaluated = on(input, torch.batch_norm, x, w, b, mean, var, False, momentum, eps, False)
        return Normalized(array(evaluated, input.dtype, input))
    output = None if isinstance(input, DeviceTensor) else fast.batch_norm(x, mean, var, w, b, momentum, eps)
    if output is None:
        output = on(input, F.batch_norm, x, mean, var, w, b, training, momentum, eps)
    return _with_statistics(output, input, (mean, running_mean), (var, running_var))


@operator
def instance_norm(
    input: Given,  # noqa: A002
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Normalized[Given]:
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
    _check_momentum(momentum)
    x, w, b = tensor(input), parameter("weight", weight, input), parameter("bias", bias, input)
    mean = statistic("running_mean", running_mean, input, written=use_input_stats)
    var = statistic("running_var", running_var, input, written=use_input_stats)
    plain = use_input_stats and mean is None and var is None and not isinstance(input, DeviceTensor)
    output = fast.instance_norm(x, w, b, eps) if plain else None
    if output is None:
        output = on(input, F.instance_norm, x, mean, var, w, b, use_input_stats, momentum, eps)
    if not use_input_stats:
        return Normalized(array(output, input.dtype, input))
    return _with_statistics(output, input, (mean, running_mean), (var, running_var))


def _with_statistics(
    output: torch.Tensor,
    input: Given,  # noqa: A002
    mean: tuple[Optional, Array | None],
    var: tuple[Optional, Array | None],
) -> Normalized[Given]:
    """Gives the output with the statistics that were updated, each beside the one that came."""
    return Normalized(array(output, input.dtype, input), _rounded(*mean, input), _rounded(*var, input))


def _rounded(updated: Optional, given: Array | None, input: Given) -> Given | None:  # noqa: A002
    return None if updated is None or given is None else array(updated, given.dtype, input)


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum <= 1:
        raise InvalidRequestError(f"momentum is in [0, 1], got {momentum}")
