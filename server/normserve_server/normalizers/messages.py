"""Layers and normalizers as messages, and back: all that a caller says of a layer is checked here."""

import math
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from normserve_proto import normalizers_pb2 as pb

from normserve_server.errors import InvalidRequestError
from normserve_server.normalizers.batch_norm import BatchNorm
from normserve_server.normalizers.instance_norm import InstanceNorm
from normserve_server.normalizers.layer import Layer
from normserve_server.normalizers.records import Record
from normserve_server.normalizers.running_norm import RunningNorm

COLLECTION = "normalizers/"
MOST_ELEMENTS = 2**20  # of one array of a state
MOMENTUM = 0.1
DATATYPES = ("FP32", "FP64")
TRAINING: dict[int, bool] = {pb.MODE_UNSPECIFIED: True, pb.MODE_TRAINING: True, pb.MODE_EVALUATION: False}


@dataclass(frozen=True, slots=True)
class Defaults:
    """What differs between two of torch's layers where a caller does not say."""

    affine: bool
    tracks: bool
    least_dimensions: int


BATCH_NORM = Defaults(affine=True, tracks=True, least_dimensions=0)
INSTANCE_NORM = Defaults(affine=False, tracks=False, least_dimensions=1)


def layer_of(message: pb.Normalizer) -> Layer:
    """Reads a normalizer's layer.

    Raises:
        InvalidRequestError: it has none, or one that cannot be.
    """
    kind = message.WhichOneof("layer")
    if kind is None:
        raise InvalidRequestError("layer: one of batch_norm, instance_norm, running_norm is required, got none")
    if kind == "running_norm":
        return _running_norm(message.running_norm)
    if kind == "batch_norm":
        return BatchNorm(*_tracked(message.batch_norm, BATCH_NORM))
    return InstanceNorm(*_tracked(message.instance_norm, INSTANCE_NORM))


def training_of(mode: int) -> bool:
    """Reads a mode; unspecified is training.

    Raises:
        InvalidRequestError: it is none.
    """
    if mode not in TRAINING:
        raise InvalidRequestError(f"mode: one of {', '.join(pb.Mode.keys())} is wanted, got {mode}")
    return TRAINING[mode]


def momentum_of(m: Any) -> float | None:
    """Reads momentum and cumulative averaging; None for the latter.

    Raises:
        InvalidRequestError: both are given, or momentum is outside of [0, 1].
    """
    if m.cumulative:
        if m.HasField("momentum"):
            raise InvalidRequestError("cumulative averaging takes no momentum")
        return None
    momentum: float = m.momentum if m.HasField("momentum") else MOMENTUM
    if not 0 <= momentum <= 1:
        raise InvalidRequestError(f"momentum is in [0, 1], got {momentum}")
    return momentum


def clip_of(m: pb.RunningNormLayer) -> float | None:
    """Reads the largest absolute value of an output; None for no limit.

    Raises:
        InvalidRequestError: it is not > 0 and finite.
    """
    if not m.HasField("clip"):
        return None
    if not 0 < m.clip < math.inf:
        raise InvalidRequestError(f"clip is > 0 and finite, got {m.clip}")
    return m.clip


def layer_message(layer: Layer) -> pb.Normalizer:
    """A normalizer of this layer, with every default written out."""
    if isinstance(layer, RunningNorm):
        return pb.Normalizer(running_norm=pb.RunningNormLayer(shape=layer.shape, eps=layer.eps, clip=layer.clip))
    assert isinstance(layer, BatchNorm | InstanceNorm)  # noqa: S101 - there are three kinds
    fields: dict[str, Any] = {
        "num_features": layer.num_features,
        "dimensions": layer.dimensions,
        "eps": layer.eps,
        "momentum": layer.momentum,
        "cumulative": layer.momentum is None,
        "affine": layer.affine,
        "track_running_stats": layer.updates,
        "datatype": layer.datatype,
    }
    if isinstance(layer, BatchNorm):
        return pb.Normalizer(batch_norm=pb.BatchNormLayer(**fields))
    return pb.Normalizer(instance_norm=pb.InstanceNormLayer(**fields))


def normalizer(record: Record) -> pb.Normalizer:
    """The whole message."""
    message = layer_message(record.layer)
    message.name = COLLECTION + record.id
    message.mode = pb.MODE_TRAINING if record.training else pb.MODE_EVALUATION
    message.etag = record.etag
    message.sequence = record.sequence
    message.create_time.CopyFrom(_timestamp(record.created))
    message.update_time.CopyFrom(_timestamp(record.updated))
    return message


def with_changes(layer: Layer, **changes: Any) -> Layer:
    """The same layer with other numbers."""
    changed: Any = replace(layer, **changes)  # type: ignore[type-var] # all three are dataclasses
    return changed  # type: ignore[no-any-return]


def _tracked(m: Any, defaults: Defaults) -> tuple[int, int, float, float | None, bool, bool, str]:
    if not 0 < m.num_features <= MOST_ELEMENTS:
        raise InvalidRequestError(f"num_features is > 0 and <= {MOST_ELEMENTS}, got {m.num_features}")
    if not defaults.least_dimensions <= m.dimensions <= 3:
        raise InvalidRequestError(f"dimensions is {defaults.least_dimensions} to 3, got {m.dimensions}")
    eps = m.eps if m.HasField("eps") else 1e-5
    if not 0 <= eps < math.inf:
        raise InvalidRequestError(f"eps is >= 0 and finite, got {eps}")
    datatype = m.datatype or DATATYPES[0]
    if datatype not in DATATYPES:
        raise InvalidRequestError(f"datatype is {' or '.join(DATATYPES)}, got {datatype!r}")
    affine = m.affine if m.HasField("affine") else defaults.affine
    tracks = m.track_running_stats if m.HasField("track_running_stats") else defaults.tracks
    return m.num_features, m.dimensions, eps, momentum_of(m), affine, tracks, datatype


def _running_norm(m: pb.RunningNormLayer) -> RunningNorm:
    shape = tuple(m.shape[:33])
    if len(shape) > 32 or any(extent <= 0 for extent in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise InvalidRequestError(f"shape has at most 32 extents > 0 and {MOST_ELEMENTS} elements, got {list(shape)}")
    eps = m.eps if m.HasField("eps") else 1e-8
    if not 0 < eps < math.inf:
        raise InvalidRequestError(f"eps is > 0 and finite, got {eps}")
    return RunningNorm(shape, eps, clip_of(m))


def _timestamp(microseconds: int) -> Timestamp:
    return Timestamp(seconds=microseconds // 10**6, nanos=microseconds % 10**6 * 1000)
