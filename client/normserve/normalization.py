"""NormalizationService's calls as pure functions, one for each operator; the counterpart of `requests`."""

from collections.abc import Sequence
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError
from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensor_field, wire
from normserve_proto.tensors import Array, Buffer, TensorError

from normserve.errors import InternalError, from_status
from normserve.requests import NORMALIZE, Call
from normserve.results import NormAnswer, NormResult
from normserve.tensor_messages import joined
from normserve.tensor_messages import optional_tensor as _tensor

_INPUT = 1  # NormalizeRequest.input
_OUTPUT = 1  # NormalizeResponse.output
_RESPONSE = 1  # NormalizeStreamResponse.response
_CODES = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


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


class Normalization(NamedTuple):
    """An operator on a tensor, before it is sent.

    Attributes:
        input: the tensor.
        operator: the rest of the request.
    """

    input: Array
    operator: pb.NormalizeRequest

    def request(self) -> bytes:
        """Serializes the request.

        Raises:
            InvalidArgumentError: the input's dtype has no name on the wire.
        """
        return _join(self.input, self.operator)


def output_of(input: Array, operator: pb.NormalizeRequest) -> Call[Array]:  # noqa: A002 - torch's name
    """Normalizes, and reads the normalized tensor."""
    return Call(NORMALIZE, _join(input, operator), lambda response: _read(response).output)


def result_of(input: Array, operator: pb.NormalizeRequest) -> Call[NormResult]:  # noqa: A002 - torch's name
    """Normalizes, and reads the normalized tensor with the updated statistics."""
    return Call(NORMALIZE, _join(input, operator), _read)


def _join(input: Array, operator: pb.NormalizeRequest) -> bytes:  # noqa: A002 - torch's name
    return joined(operator.SerializeToString(), _INPUT, "input", input)


def read_stream_answer(data: bytes) -> NormAnswer:
    """Reads one answer of `NORMALIZE_STREAM`.

    Raises:
        InternalError: the bytes are not such a message, or a tensor in it does not fit its own description.
    """
    try:
        head, responses = wire.split(data, _RESPONSE)
        if responses and len(responses) == 1:
            return NormAnswer(None, _read(responses[0]))
        message = pb.NormalizeStreamResponse.FromString(data if responses else head)
        if message.HasField("error"):
            code = _CODES.get(message.error.code, grpc.StatusCode.UNKNOWN)
            return NormAnswer(from_status(code, message.error.message), None)
        return NormAnswer(None, _result(message.response))
    except (DecodeError, TensorError) as error:
        raise InternalError(f"the server's answer cannot be read: {error}") from error


def _read(response: bytes | memoryview) -> NormResult:
    head, tensor, data = tensor_field.split(response, _OUTPUT)
    return _result(pb.NormalizeResponse.FromString(head), tensor, data)


def _result(message: pb.NormalizeResponse, tensor: pb.Tensor | None = None, data: Buffer | None = None) -> NormResult:
    return NormResult(
        output=tensor_field.decode("output", message.output if tensor is None else tensor, data),
        running_mean=tensor_field.decode("running_mean", message.running_mean) if message.HasField("running_mean") else None,
        running_var=tensor_field.decode("running_var", message.running_var) if message.HasField("running_var") else None,
    )
