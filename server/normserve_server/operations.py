"""What a NormalizeRequest asks for: from messages to calls of the operators."""

from collections.abc import Callable
from typing import Any

from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensor_field
from normserve_proto.tensors import Array

from normserve_server import operators
from normserve_server.errors import InvalidRequestError
from normserve_server.operators import Compute

MOMENTUM = 0.1
EPS = 1e-5
ALPHA, BETA, K = 1e-4, 0.75, 1.0  # of local_response_norm
P, DIM, LEAST_NORM = 2.0, 1, 1e-12  # of normalize
MOST_BATCHES = 2**63 - 1  # an int64 that can still be incremented


def operation(request: pb.NormalizeRequest) -> Compute:
    """Gives what a request asks for, still to be called with its input.

    Args:
        request: an operator, with its arguments.

    Raises:
        TensorError: a tensor does not fit its own description.
        InvalidRequestError: there is no operator, or its arguments contradict one another.
    """
    kind = request.WhichOneof("operator")
    if kind is None:
        raise InvalidRequestError(f"operator: one of {', '.join(_OPERATIONS)} is required, got none")
    return _OPERATIONS[kind](getattr(request, kind))


def _batch_norm(m: pb.BatchNorm) -> Compute:
    momentum = _batch_norm_momentum(m)
    mean, var, weight, bias = (_optional(m, name) for name in ("running_mean", "running_var", "weight", "bias"))
    eps = m.eps if m.HasField("eps") else EPS
    return lambda x: operators.batch_norm(x, mean, var, weight, bias, m.training, momentum, eps)


def _batch_norm_momentum(m: pb.BatchNorm) -> float:
    if not 0 <= m.num_batches_tracked < MOST_BATCHES:
        raise InvalidRequestError(f"num_batches_tracked is >= 0 and < {MOST_BATCHES}, got {m.num_batches_tracked}")
    if not m.cumulative:
        return m.momentum if m.HasField("momentum") else MOMENTUM
    if m.HasField("momentum") or not m.HasField("num_batches_tracked"):
        raise InvalidRequestError("cumulative averaging takes num_batches_tracked and no momentum")
    return 1.0 / (m.num_batches_tracked + 1)


def _instance_norm(m: pb.InstanceNorm) -> Compute:
    mean, var, weight, bias = (_optional(m, name) for name in ("running_mean", "running_var", "weight", "bias"))
    use_input_stats = m.use_input_stats if m.HasField("use_input_stats") else True
    momentum = m.momentum if m.HasField("momentum") else MOMENTUM
    eps = m.eps if m.HasField("eps") else EPS
    return lambda x: operators.instance_norm(x, mean, var, weight, bias, use_input_stats, momentum, eps)


def _layer_norm(m: pb.LayerNorm) -> Compute:
    weight, bias = _optional(m, "weight"), _optional(m, "bias")
    eps = m.eps if m.HasField("eps") else EPS
    return lambda x: operators.layer_norm(x, m.normalized_shape, weight, bias, eps)


def _group_norm(m: pb.GroupNorm) -> Compute:
    weight, bias = _optional(m, "weight"), _optional(m, "bias")
    eps = m.eps if m.HasField("eps") else EPS
    return lambda x: operators.group_norm(x, m.num_groups, weight, bias, eps)


def _rms_norm(m: pb.RmsNorm) -> Compute:
    weight = _optional(m, "weight")
    eps = m.eps if m.HasField("eps") else None
    return lambda x: operators.rms_norm(x, m.normalized_shape, weight, eps)


def _local_response_norm(m: pb.LocalResponseNorm) -> Compute:
    alpha = m.alpha if m.HasField("alpha") else ALPHA
    beta = m.beta if m.HasField("beta") else BETA
    k = m.k if m.HasField("k") else K
    return lambda x: operators.local_response_norm(x, m.size, alpha, beta, k)


def _normalize(m: pb.LpNormalize) -> Compute:
    p = m.p if m.HasField("p") else P
    dim = m.dim if m.HasField("dim") else DIM
    eps = m.eps if m.HasField("eps") else LEAST_NORM
    return lambda x: operators.normalize(x, p, dim, eps)


_OPERATIONS: dict[str, Callable[[Any], Compute]] = {
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "local_response_norm": _local_response_norm,
    "normalize": _normalize,
}


def _optional(message: Any, name: str) -> Array | None:
    return tensor_field.decode(name, getattr(message, name)) if message.HasField(name) else None
