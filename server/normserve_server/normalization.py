"""`normserve.v1.NormalizationService`: from messages to the operators and back."""

from collections.abc import Callable
from typing import Any

from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensors
from normserve_proto.tensors import Array

from normserve_server import operators
from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError, OverloadedError
from normserve_server.operators import Normalized
from normserve_server.workers import Worker

MOMENTUM = 0.1
EPS = 1e-5
ALPHA, BETA, K = 1e-4, 0.75, 1.0  # of local_response_norm
P, DIM, LEAST_NORM = 2.0, 1, 1e-12  # of normalize
RETRY_AFTER_MS = 50
MOST_BATCHES = 2**63 - 1  # an int64 that can still be incremented
INLINE_BYTES = 32 * 1024  # on this much an operator holds the loop for 10 to 21 us (two cores, torch 2.13)


class NormalizationServicer:
    """Handlers of the service.

    Args:
        worker: the thread that big tensors are normalized on.
        max_queue_size: most calls that wait for it; the next one is refused.
    """

    def __init__(self, worker: Worker, max_queue_size: int) -> None:
        self._worker = worker
        self._max_queue_size = max_queue_size
        self._waiting = 0

    async def Normalize(self, request: pb.NormalizeRequest, call: Call) -> pb.NormalizeResponse:  # noqa: N802
        """Applies one operator to one tensor."""
        compute = _operation(request)
        call.lap("decode")
        if len(request.input.data) < INLINE_BYTES:
            normalized = compute()
        else:
            normalized = await self._on_worker(compute)
        call.lap("compute")
        return _response(request, normalized)

    async def _on_worker(self, compute: Callable[[], Normalized]) -> Normalized:
        if self._waiting > self._max_queue_size:  # one of them runs
            raise OverloadedError(
                f"{self._max_queue_size} normalizations wait already, which is the limit", retry_after_ms=RETRY_AFTER_MS
            )
        self._waiting += 1
        try:
            normalized: Normalized = await self._worker.call(compute)
        finally:
            self._waiting -= 1
        return normalized


def _operation(request: pb.NormalizeRequest) -> Callable[[], Normalized]:
    if not request.HasField("input"):
        raise InvalidRequestError("input: required, got none")
    kind = request.WhichOneof("operator")
    if kind is None:
        raise InvalidRequestError(f"operator: one of {', '.join(_OPERATIONS)} is required, got none")
    x = _array("input", request.input)
    return _OPERATIONS[kind](x, getattr(request, kind))


def _batch_norm(x: Array, m: pb.BatchNorm) -> Callable[[], Normalized]:
    momentum = _batch_norm_momentum(m)
    mean, var, weight, bias = (_optional(m, name) for name in ("running_mean", "running_var", "weight", "bias"))
    eps = m.eps if m.HasField("eps") else EPS
    return lambda: operators.batch_norm(x, mean, var, weight, bias, m.training, momentum, eps)


def _batch_norm_momentum(m: pb.BatchNorm) -> float:
    if not 0 <= m.num_batches_tracked < MOST_BATCHES:
        raise InvalidRequestError(f"num_batches_tracked is >= 0 and < {MOST_BATCHES}, got {m.num_batches_tracked}")
    if not m.cumulative:
        return m.momentum if m.HasField("momentum") else MOMENTUM
    if m.HasField("momentum") or not m.HasField("num_batches_tracked"):
        raise InvalidRequestError("cumulative averaging takes num_batches_tracked and no momentum")
    return 1.0 / (m.num_batches_tracked + 1)


def _instance_norm(x: Array, m: pb.InstanceNorm) -> Callable[[], Normalized]:
    mean, var, weight, bias = (_optional(m, name) for name in ("running_mean", "running_var", "weight", "bias"))
    use_input_stats = m.use_input_stats if m.HasField("use_input_stats") else True
    momentum = m.momentum if m.HasField("momentum") else MOMENTUM
    eps = m.eps if m.HasField("eps") else EPS
    return lambda: operators.instance_norm(x, mean, var, weight, bias, use_input_stats, momentum, eps)


def _layer_norm(x: Array, m: pb.LayerNorm) -> Callable[[], Normalized]:
    weight, bias = _optional(m, "weight"), _optional(m, "bias")
    eps = m.eps if m.HasField("eps") else EPS
    return lambda: operators.layer_norm(x, m.normalized_shape, weight, bias, eps)


def _group_norm(x: Array, m: pb.GroupNorm) -> Callable[[], Normalized]:
    weight, bias = _optional(m, "weight"), _optional(m, "bias")
    eps = m.eps if m.HasField("eps") else EPS
    return lambda: operators.group_norm(x, m.num_groups, weight, bias, eps)


def _rms_norm(x: Array, m: pb.RmsNorm) -> Callable[[], Normalized]:
    weight = _optional(m, "weight")
    eps = m.eps if m.HasField("eps") else None
    return lambda: operators.rms_norm(x, m.normalized_shape, weight, eps)


def _local_response_norm(x: Array, m: pb.LocalResponseNorm) -> Callable[[], Normalized]:
    alpha = m.alpha if m.HasField("alpha") else ALPHA
    beta = m.beta if m.HasField("beta") else BETA
    k = m.k if m.HasField("k") else K
    return lambda: operators.local_response_norm(x, m.size, alpha, beta, k)


def _normalize(x: Array, m: pb.LpNormalize) -> Callable[[], Normalized]:
    p = m.p if m.HasField("p") else P
    dim = m.dim if m.HasField("dim") else DIM
    eps = m.eps if m.HasField("eps") else LEAST_NORM
    return lambda: operators.normalize(x, p, dim, eps)


_OPERATIONS: dict[str, Callable[[Array, Any], Callable[[], Normalized]]] = {
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "local_response_norm": _local_response_norm,
    "normalize": _normalize,
}


def _optional(message: Any, name: str) -> Array | None:
    return _array(name, getattr(message, name)) if message.HasField(name) else None


def _array(name: str, tensor: pb.Tensor) -> Array:
    return tensors.decode(name, tensor.datatype, tensor.shape, tensor.data)


def _tensor(array: Array | None) -> pb.Tensor | None:
    if array is None:
        return None
    return pb.Tensor(datatype=tensors.datatype_of(array), shape=array.shape, data=bytes(tensors.encode(array)))


def _response(request: pb.NormalizeRequest, normalized: Normalized) -> pb.NormalizeResponse:
    response = pb.NormalizeResponse(
        output=_tensor(normalized.output),
        running_mean=_tensor(normalized.running_mean),
        running_var=_tensor(normalized.running_var),
    )
    layer = request.batch_norm
    if layer.training and layer.HasField("num_batches_tracked"):
        response.num_batches_tracked = layer.num_batches_tracked + 1
    return response
