from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from normserve_proto import normalization_pb2 as _normalization_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_TRAINING: _ClassVar[Mode]
    MODE_EVALUATION: _ClassVar[Mode]
MODE_UNSPECIFIED: Mode
MODE_TRAINING: Mode
MODE_EVALUATION: Mode

class Normalizer(_message.Message):
    __slots__ = ("name", "batch_norm", "instance_norm", "running_norm", "mode", "etag", "sequence", "create_time", "update_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BATCH_NORM_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_NORM_FIELD_NUMBER: _ClassVar[int]
    RUNNING_NORM_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    batch_norm: BatchNormLayer
    instance_norm: InstanceNormLayer
    running_norm: RunningNormLayer
    mode: Mode
    etag: str
    sequence: int
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., batch_norm: _Optional[_Union[BatchNormLayer, _Mapping]] = ..., instance_norm: _Optional[_Union[InstanceNormLayer, _Mapping]] = ..., running_norm: _Optional[_Union[RunningNormLayer, _Mapping]] = ..., mode: _Optional[_Union[Mode, str]] = ..., etag: _Optional[str] = ..., sequence: _Optional[int] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class BatchNormLayer(_message.Message):
    __slots__ = ("num_features", "dimensions", "eps", "momentum", "cumulative", "affine", "track_running_stats", "datatype")
    NUM_FEATURES_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    CUMULATIVE_FIELD_NUMBER: _ClassVar[int]
    AFFINE_FIELD_NUMBER: _ClassVar[int]
    TRACK_RUNNING_STATS_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    num_features: int
    dimensions: int
    eps: float
    momentum: float
    cumulative: bool
    affine: bool
    track_running_stats: bool
    datatype: str
    def __init__(self, num_features: _Optional[int] = ..., dimensions: _Optional[int] = ..., eps: _Optional[float] = ..., momentum: _Optional[float] = ..., cumulative: bool = ..., affine: bool = ..., track_running_stats: bool = ..., datatype: _Optional[str] = ...) -> None: ...

class InstanceNormLayer(_message.Message):
    __slots__ = ("num_features", "dimensions", "eps", "momentum", "cumulative", "affine", "track_running_stats", "datatype")
    NUM_FEATURES_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    CUMULATIVE_FIELD_NUMBER: _ClassVar[int]
    AFFINE_FIELD_NUMBER: _ClassVar[int]
    TRACK_RUNNING_STATS_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    num_features: int
    dimensions: int
    eps: float
    momentum: float
    cumulative: bool
    affine: bool
    track_running_stats: bool
    datatype: str
    def __init__(self, num_features: _Optional[int] = ..., dimensions: _Optional[int] = ..., eps: _Optional[float] = ..., momentum: _Optional[float] = ..., cumulative: bool = ..., affine: bool = ..., track_running_stats: bool = ..., datatype: _Optional[str] = ...) -> None: ...

class RunningNormLayer(_message.Message):
    __slots__ = ("shape", "eps", "clip")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    eps: float
    clip: float
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., eps: _Optional[float] = ..., clip: _Optional[float] = ...) -> None: ...

class CreateNormalizerRequest(_message.Message):
    __slots__ = ("normalizer_id", "normalizer", "snapshot", "request_id")
    NORMALIZER_ID_FIELD_NUMBER: _ClassVar[int]
    NORMALIZER_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    normalizer_id: str
    normalizer: Normalizer
    snapshot: bytes
    request_id: str
    def __init__(self, normalizer_id: _Optional[str] = ..., normalizer: _Optional[_Union[Normalizer, _Mapping]] = ..., snapshot: _Optional[bytes] = ..., request_id: _Optional[str] = ...) -> None: ...

class GetNormalizerRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListNormalizersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListNormalizersResponse(_message.Message):
    __slots__ = ("normalizers", "next_page_token")
    NORMALIZERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    normalizers: _containers.RepeatedCompositeFieldContainer[Normalizer]
    next_page_token: str
    def __init__(self, normalizers: _Optional[_Iterable[_Union[Normalizer, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateNormalizerRequest(_message.Message):
    __slots__ = ("normalizer", "update_mask")
    NORMALIZER_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    normalizer: Normalizer
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, normalizer: _Optional[_Union[Normalizer, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class DeleteNormalizerRequest(_message.Message):
    __slots__ = ("name", "etag", "allow_missing")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    allow_missing: bool
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ..., allow_missing: bool = ...) -> None: ...

class ApplyNormalizerRequest(_message.Message):
    __slots__ = ("name", "input", "mode", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    input: _normalization_pb2.Tensor
    mode: Mode
    request_id: str
    def __init__(self, name: _Optional[str] = ..., input: _Optional[_Union[_normalization_pb2.Tensor, _Mapping]] = ..., mode: _Optional[_Union[Mode, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ApplyNormalizerResponse(_message.Message):
    __slots__ = ("output", "sequence")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    output: _normalization_pb2.Tensor
    sequence: int
    def __init__(self, output: _Optional[_Union[_normalization_pb2.Tensor, _Mapping]] = ..., sequence: _Optional[int] = ...) -> None: ...

class ObserveNormalizerRequest(_message.Message):
    __slots__ = ("name", "input", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    input: _normalization_pb2.Tensor
    request_id: str
    def __init__(self, name: _Optional[str] = ..., input: _Optional[_Union[_normalization_pb2.Tensor, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ObserveNormalizerResponse(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class GetStateDictRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class NamedTensor(_message.Message):
    __slots__ = ("name", "tensor")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensor: _normalization_pb2.Tensor
    def __init__(self, name: _Optional[str] = ..., tensor: _Optional[_Union[_normalization_pb2.Tensor, _Mapping]] = ...) -> None: ...

class StateDict(_message.Message):
    __slots__ = ("tensors", "etag", "sequence")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[NamedTensor]
    etag: str
    sequence: int
    def __init__(self, tensors: _Optional[_Iterable[_Union[NamedTensor, _Mapping]]] = ..., etag: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class LoadStateDictRequest(_message.Message):
    __slots__ = ("name", "tensors", "version", "etag", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensors: _containers.RepeatedCompositeFieldContainer[NamedTensor]
    version: int
    etag: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[NamedTensor, _Mapping]]] = ..., version: _Optional[int] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class GetSnapshotRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("safetensors",)
    SAFETENSORS_FIELD_NUMBER: _ClassVar[int]
    safetensors: bytes
    def __init__(self, safetensors: _Optional[bytes] = ...) -> None: ...
