"""NormalizationService's calls as pure functions, one for each operator; the counterpart of `requests`."""

from collections.abc import Sequence

import numpy as np
from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensors, wire
from normserve_proto.tensors import Array, Buffer

from normserve.requests import NORMALIZE, Call, encode_input
from normserve.results import NormResult

_INPUT = 1  # NormalizeRequest.input
_OUTPUT = 1  # NormalizeResponse.output
_DATA = 3  # Tensor.data


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
    """Serializes a request by hand where it is big, so that the input's memory is copied once."""
    array = np.asarray(input)
    data = encode_input("input", array)
    description = pb.Tensor(datatype=tensors.datatype_of(array), shape=array.shape).SerializeToString()
    data_prefix = wire.prefix(_DATA, len(data))
    tensor_prefix = wire.prefix(_INPUT, len(description) + len(data_prefix) + len(data))
    return b"".join((operator.SerializeToString(), tensor_prefix, description, data_prefix, data))


def _tensor(name: str, array: Array | None) -> pb.Tensor | None:
    if array is None:
        return None
    array = np.asarray(array)
    data = bytes(encode_input(name, array))
    return pb.Tensor(datatype=tensors.datatype_of(array), shape=array.shape, data=data)


def _read(response: bytes) -> NormResult:
    head, outputs = wire.split(response, _OUTPUT)
    message = pb.NormalizeResponse.FromString(head)
    output = _decode("output", message.output) if outputs is None else _view("output", outputs)
    return NormResult(
        output=output,
        running_mean=_decode("running_mean", message.running_mean) if message.HasField("running_mean") else None,
        running_var=_decode("running_var", message.running_var) if message.HasField("running_var") else None,
    )


def _view(name: str, messages: Sequence[memoryview]) -> Array:
    """Decodes a big tensor without a copy; more than one message for it, which nobody sends, are merged as protobuf does."""
    if len(messages) != 1:
        return _decode(name, pb.Tensor.FromString(b"".join(messages)))
    head, data = wire.split(messages[0], _DATA)
    tensor = pb.Tensor.FromString(bytes(head))
    if data is None:
        return _decode(name, tensor)
    return _decode(name, tensor, data[-1] if data else b"")


def _decode(name: str, tensor: pb.Tensor, data: Buffer | None = None) -> Array:
    return tensors.decode(name, tensor.datatype, tensor.shape, tensor.data if data is None else data)
