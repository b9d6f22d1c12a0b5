# ruff: noqa: A002 - names and positions are torch's
"""torch.nn.functional's normalization operators as requests: what `Client.normalize_stream` sends.

Each function has the arguments of the `Client` method of its name, but for the timeout.
"""

from collections.abc import Sequence

from normserve_proto.tensors import Array

from normserve import normalization
from normserve.normalization import Normalization


def batch_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    num_batches_tracked: int | None = None,
) -> Normalization:
    """As `Client.batch_norm`."""
    operator = normalization.batch_norm(
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
        training=training,
        momentum=momentum,
        eps=eps,
        num_batches_tracked=num_batches_tracked,
    )
    return Normalization(input, operator)


def layer_norm(
    input: Array,
    normalized_shape: Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> Normalization:
    """As `Client.layer_norm`."""
    return Normalization(input, normalization.layer_norm(normalized_shape, weight, bias, eps))


def instance_norm(
    input: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Normalization:
    """As `Client.instance_norm`."""
    operator = normalization.instance_norm(
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
        use_input_stats=use_input_stats,
        momentum=momentum,
        eps=eps,
    )
    return Normalization(input, operator)


def group_norm(
    input: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> Normalization:
    """As `Client.group_norm`."""
    return Normalization(input, normalization.group_norm(num_groups, weight, bias, eps))


def rms_norm(
    input: Array,
    normalized_shape: Sequence[int],
    weight: Array | None = None,
    eps: float | None = None,
) -> Normalization:
    """As `Client.rms_norm`."""
    return Normalization(input, normalization.rms_norm(normalized_shape, weight, eps))


def local_response_norm(
    input: Array,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Normalization:
    """As `Client.local_response_norm`."""
    return Normalization(input, normalization.local_response_norm(size, alpha, beta, k))


def normalize(
    input: Array,
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
) -> Normalization:
    """As `Client.normalize`."""
    return Normalization(input, normalization.normalize(p, dim, eps))
