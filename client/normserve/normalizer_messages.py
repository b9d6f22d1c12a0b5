"""Normalizers as messages, and messages as normalizers."""

from collections.abc import Mapping
from datetime import UTC
from typing import Any, TypeVar

import numpy as np
from normserve_proto import normalizers_pb2 as pb
from normserve_proto import tensor_field, tensors

from normserve import tensor_messages
from normserve.errors import InternalError, InvalidArgumentError
from normserve.layers import BatchNormLayer, InstanceNormLayer, Layer, NormalizerInfo, RunningNormLayer, StateDict
from normserve.torch_tensors import to_numpy

TorchLayer = TypeVar("TorchLayer", BatchNormLayer, InstanceNormLayer)

_PREFIX = "normalizers/"
_FIELDS = {BatchNormLayer: "batch_norm", InstanceNormLayer: "instance_norm", RunningNormLayer: "running_norm"}


def resource_name(name: str) -> str:
    """Gives the name on the wire."""
    return _PREFIX + name


def field_of(layer: Layer) -> str:
    """Names the field of pb.Normalizer that holds such a layer.

    Raises:
        InvalidArgumentError: it is no layer.
    """
    field = _FIELDS.get(type(layer))
    if field is None:
        raise InvalidArgumentError(
            f"wanted a BatchNormLayer, an InstanceNormLayer or a RunningNormLayer, got {type(layer).__name__}"
        )
    return field


def normalizer(layer: Layer, training: bool | None) -> pb.Normalizer:
    """Gives the message of a layer and its mode.

    Raises:
        InvalidArgumentError: it is no layer, or one of its values cannot travel.
    """
    field = field_of(layer)
    message = pb.Normalizer(mode=mode(training))
    try:
        getattr(message, field).CopyFrom(_running_norm(layer) if isinstance(layer, RunningNormLayer) else _torch_layer(layer))
    except (TypeError, ValueError) as error:  # protobuf's, for what is not of a field's type
        raise InvalidArgumentError(f"{layer} cannot travel: {error}") from error
    return message


def mode(training: bool | None) -> pb.Mode:
    """Gives the mode on the wire; None for what the server takes."""
    if training is None:
        return pb.MODE_UNSPECIFIED
    return pb.MODE_TRAINING if training else pb.MODE_EVALUATION


def info(message: pb.Normalizer) -> NormalizerInfo:
    """Reads what a server tells of a normalizer.

    Raises:
        InternalError: its layer is one that this client does not know.
    """
    return NormalizerInfo(
        name=message.name.removeprefix(_PREFIX),
        layer=_layer(message),
        training=message.mode != pb.MODE_EVALUATION,
        etag=message.etag,
        sequence=message.sequence,
        create_time=message.create_time.ToDatetime(UTC),
        update_time=message.update_time.ToDatetime(UTC),
    )


def named_tensors(state: Mapping[str, Any]) -> list[pb.NamedTensor]:
    """Gives the messages of a state dict of arrays or of tensors.

    Raises:
        InvalidArgumentError: a dtype has no name on the wire; the text names the entry.
    """
    return [pb.NamedTensor(name=name, tensor=tensor_messages.tensor(name, to_numpy(value))) for name, value in state.items()]


def state_dict(message: pb.StateDict) -> StateDict:
    """Reads a state dict.

    Raises:
        TensorError: a tensor does not fit its own description.
    """
    arrays = {entry.name: tensor_field.decode(entry.name, entry.tensor) for entry in message.tensors}
    return StateDict(arrays, message.etag, message.sequence)


def _torch_layer(layer: BatchNormLayer | InstanceNormLayer) -> pb.BatchNormLayer | pb.InstanceNormLayer:
    kind = pb.BatchNormLayer if isinstance(layer, BatchNormLayer) else pb.InstanceNormLayer
    return kind(
        num_features=layer.num_features,
        dimensions=layer.dimensions,
        eps=layer.eps,
        momentum=layer.momentum,
        cumulative=layer.momentum is None,
        affine=layer.affine,
        track_running_stats=layer.track_running_stats,
        datatype=tensors.datatype_of(np.empty(0, layer.dtype)),
    )


def _running_norm(layer: RunningNormLayer) -> pb.RunningNormLayer:
    return pb.RunningNormLayer(shape=layer.shape, eps=layer.eps, clip=layer.clip)


def _layer(message: pb.Normalizer) -> Layer:
    match message.WhichOneof("layer"):
        case "batch_norm":
            return _as_torch_layer(BatchNormLayer(message.batch_norm.num_features), message.batch_norm)
        case "instance_norm":
            layer = message.instance_norm
            return _as_torch_layer(InstanceNormLayer(layer.num_features, layer.dimensions), layer)
        case "running_norm":
            return _as_running_norm(message.running_norm)
    raise InternalError(f"normalizer '{message.name}' has no layer that this client knows")


def _as_torch_layer(default: TorchLayer, message: pb.BatchNormLayer | pb.InstanceNormLayer) -> TorchLayer:
    """Reads a layer; what is not set is as in `default`."""
    given = {
        name: getattr(message, name) for name in ("eps", "momentum", "affine", "track_running_stats") if message.HasField(name)
    }
    if message.cumulative:
        given["momentum"] = None
    dtype = tensors.DTYPES.get(message.datatype, default.dtype)
    return type(default)(message.num_features, message.dimensions, dtype=dtype, **given)


def _as_running_norm(message: pb.RunningNormLayer) -> RunningNormLayer:
    eps = message.eps if message.HasField("eps") else RunningNormLayer().eps
    return RunningNormLayer(tuple(message.shape), eps, message.clip if message.HasField("clip") else None)
