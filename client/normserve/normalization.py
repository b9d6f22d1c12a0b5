"""NormalizationService's calls as pure functions, one for each operator; the counterpart of `requests`."""

from collections.abc import Sequence

from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensor_field
from normserve_proto.tensors import Array

from normserve.requests import NORMALIZE, Call
from normserve.results import NormResult
from normserve.tensor_messages import joined
from normserve.tensor_messages import optional_tensor as _tensor

_INPUT = 1  # NormalizeRequest.input
_OUTPUT = 1  # NormalizeResponse.output


def batch_norm(
    *,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: float | None,
    eps: float,
    num_batches_tracked: int | None,
) -> pb.NormalizeRequest:
    """Gives the operator's half of a request; see `Client.batch_norm`."""
    return pb.NormalizeRequest(
        batch_norm=pb.BatchNorm(
            running_mean=_tensor("running_mean", running_mean),
            running_var=_tensor("running_var", running_var),
            weight=_tensor("weight", weight),
            bias=_tensor("bias", bias),
            training=training,
            momentum=momentum,
            eps=eps,
            num_batches_tracked=num_batches_tracked,
            cumulative=training and momentum is None,
        )
    )


def layer_norm(normalized_shape: Sequence[int], weight: Array | None, bias: Array | None, eps: float) -> pb.NormalizeRequest:
    """Gives the operator's half of a request; see `Client.layer_norm`."""
    return pb.NormalizeRequest(
        layer_norm=pb.LayerNorm(
            normalized_shape=normalized_shape, weight=_tensor("weight", weight), bias=_tensor("bias", bias), eps=eps
        )
    )


def instance_norm(
    *,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
) -> pb.NormalizeRequest:
    """Gives the operator's half of a request; see `Client.instance_norm`."""
    return pb.NormalizeRequest(
        instance_norm=pb.InstanceNorm(
            running_mean=_tensor("running_mean", running_mean),
            running_var=_tensor("running_var", running_var),
            weight=_tensor("weight", weight),
            bias=_tensor("bias", bias),
            use_input_stats=use_input_stats,
            momentum=momentum,
            eps=eps,
        )
    )


def group_norm(num_groups: int, weight: Array | None, bias: Array | None, eps: float) -> pb.NormalizeRequest:
    """Gives the operator's half of a request; see `Client.group_norm`."""
    return pb.NormalizeRequest(
        group_norm=pb.GroupNorm(num_groups=num_groups, weight=_tensor("weight", weight), bias=_tensor("bias", bias), eps=eps)
    )


def rms_norm(normalized_shape: Sequence[int], weight: Array | None, eps: float | None) -> pb.NormalizeRequest:
    """Gives the operator's half of a request; see `Client.rms_norm`."""
    return pb.NormalizeRequest(
        rms_norm=pb.RmsNorm(normalized_shape=normalized_shape, weight=_tensor("weight", weight), eps=eps)
    )


def local_response_norm(size: int, alpha: float, beta: float, k: float) -> pb.NormalizeRequest:
    """Gives the operator's half of a request; see `Client.local_response_norm`."""
    return pb.NormalizeRequest(local_response_norm=pb.LocalResponseNorm(size=size, alpha=alpha, beta=beta, k=k))


def normalize(p: float, dim: int, eps: float) -> pb.NormalizeRequest:
    """Gives the operator's half of a request; see `Client.normalize`."""
    return pb.NormalizeRequest(normalize=pb.LpNormalize(p=p, dim=dim, eps=eps))


def output_of(input: Array, operator: pb.NormalizeRequest) -> Call[Array]:  # noqa: A002 - torch's name
    """Normalizes, and reads the normalized tensor."""
    return Call(NORMALIZE, _join(input, operator), lambda response: _read(response).output)


def result_of(input: Array, operator: pb.NormalizeRequest) -> Call[NormResult]:  # noqa: A002 - torch's name
    """Normalizes, and reads the normalized tensor with the updated statistics."""
    return Call(NORMALIZE, _join(input, operator), _read)


def _join(input: Array, operator: pb.NormalizeRequest) -> bytes:  # noqa: A002 - torch's name
    return joined(operator.SerializeToString(), _INPUT, "input", input)


def _read(response: bytes) -> NormResult:
    head, tensor, data = tensor_field.split(response, _OUTPUT)
    message = pb.NormalizeResponse.FromString(head)
    return NormResult(
        output=tensor_field.decode("output", message.output if tensor is None else tensor, data),
        running_mean=tensor_field.decode("running_mean", message.running_mean) if message.HasField("running_mean") else None,
        running_var=tensor_field.decode("running_var", message.running_var) if message.HasField("running_var") else None,
    )
