from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tensor(_message.Message):
    __slots__ = ("datatype", "shape", "data")
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class NormalizeRequest(_message.Message):
    __slots__ = ("input", "batch_norm", "layer_norm", "instance_norm", "group_norm", "rms_norm", "local_response_norm", "normalize")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    BATCH_NORM_FIELD_NUMBER: _ClassVar[int]
    LAYER_NORM_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_NORM_FIELD_NUMBER: _ClassVar[int]
    GROUP_NORM_FIELD_NUMBER: _ClassVar[int]
    RMS_NORM_FIELD_NUMBER: _ClassVar[int]
    LOCAL_RESPONSE_NORM_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    input: Tensor
    batch_norm: BatchNorm
    layer_norm: LayerNorm
    instance_norm: InstanceNorm
    group_norm: GroupNorm
    rms_norm: RmsNorm
    local_response_norm: LocalResponseNorm
    normalize: LpNormalize
    def __init__(self, input: _Optional[_Union[Tensor, _Mapping]] = ..., batch_norm: _Optional[_Union[BatchNorm, _Mapping]] = ..., layer_norm: _Optional[_Union[LayerNorm, _Mapping]] = ..., instance_norm: _Optional[_Union[InstanceNorm, _Mapping]] = ..., group_norm: _Optional[_Union[GroupNorm, _Mapping]] = ..., rms_norm: _Optional[_Union[RmsNorm, _Mapping]] = ..., local_response_norm: _Optional[_Union[LocalResponseNorm, _Mapping]] = ..., normalize: _Optional[_Union[LpNormalize, _Mapping]] = ...) -> None: ...

class NormalizeResponse(_message.Message):
    __slots__ = ("output", "running_mean", "running_var", "num_batches_tracked")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_MEAN_FIELD_NUMBER: _ClassVar[int]
    RUNNING_VAR_FIELD_NUMBER: _ClassVar[int]
    NUM_BATCHES_TRACKED_FIELD_NUMBER: _ClassVar[int]
    output: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: int
    def __init__(self, output: _Optional[_Union[Tensor, _Mapping]] = ..., running_mean: _Optional[_Union[Tensor, _Mapping]] = ..., running_var: _Optional[_Union[Tensor, _Mapping]] = ..., num_batches_tracked: _Optional[int] = ...) -> None: ...

class NormalizeStreamResponse(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: NormalizeResponse
    error: NormalizeError
    def __init__(self, response: _Optional[_Union[NormalizeResponse, _Mapping]] = ..., error: _Optional[_Union[NormalizeError, _Mapping]] = ...) -> None: ...

class NormalizeError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class BatchNorm(_message.Message):
    __slots__ = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps", "num_batches_tracked", "cumulative")
    RUNNING_MEAN_FIELD_NUMBER: _ClassVar[int]
    RUNNING_VAR_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    NUM_BATCHES_TRACKED_FIELD_NUMBER: _ClassVar[int]
    CUMULATIVE_FIELD_NUMBER: _ClassVar[int]
    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor
    training: bool
    momentum: float
    eps: float
    num_batches_tracked: int
    cumulative: bool
    def __init__(self, running_mean: _Optional[_Union[Tensor, _Mapping]] = ..., running_var: _Optional[_Union[Tensor, _Mapping]] = ..., weight: _Optional[_Union[Tensor, _Mapping]] = ..., bias: _Optional[_Union[Tensor, _Mapping]] = ..., training: bool = ..., momentum: _Optional[float] = ..., eps: _Optional[float] = ..., num_batches_tracked: _Optional[int] = ..., cumulative: bool = ...) -> None: ...

class LayerNorm(_message.Message):
    __slots__ = ("normalized_shape", "weight", "bias", "eps")
    NORMALIZED_SHAPE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    normalized_shape: _containers.RepeatedScalarFieldContainer[int]
    weight: Tensor
    bias: Tensor
    eps: float
    def __init__(self, normalized_shape: _Optional[_Iterable[int]] = ..., weight: _Optional[_Union[Tensor, _Mapping]] = ..., bias: _Optional[_Union[Tensor, _Mapping]] = ..., eps: _Optional[float] = ...) -> None: ...

class InstanceNorm(_message.Message):
    __slots__ = ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    RUNNING_MEAN_FIELD_NUMBER: _ClassVar[int]
    RUNNING_VAR_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    USE_INPUT_STATS_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor
    use_input_stats: bool
    momentum: float
    eps: float
    def __init__(self, running_mean: _Optional[_Union[Tensor, _Mapping]] = ..., running_var: _Optional[_Union[Tensor, _Mapping]] = ..., weight: _Optional[_Union[Tensor, _Mapping]] = ..., bias: _Optional[_Union[Tensor, _Mapping]] = ..., use_input_stats: bool = ..., momentum: _Optional[float] = ..., eps: _Optional[float] = ...) -> None: ...

class GroupNorm(_message.Message):
    __slots__ = ("num_groups", "weight", "bias", "eps")
    NUM_GROUPS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    num_groups: int
    weight: Tensor
    bias: Tensor
    eps: float
    def __init__(self, num_groups: _Optional[int] = ..., weight: _Optional[_Union[Tensor, _Mapping]] = ..., bias: _Optional[_Union[Tensor, _Mapping]] = ..., eps: _Optional[float] = ...) -> None: ...

class RmsNorm(_message.Message):
    __slots__ = ("normalized_shape", "weight", "eps")
    NORMALIZED_SHAPE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    normalized_shape: _containers.RepeatedScalarFieldContainer[int]
    weight: Tensor
    eps: float
    def __init__(self, normalized_shape: _Optional[_Iterable[int]] = ..., weight: _Optional[_Union[Tensor, _Mapping]] = ..., eps: _Optional[float] = ...) -> None: ...

class LocalResponseNorm(_message.Message):
    __slots__ = ("size", "alpha", "beta", "k")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    size: int
    alpha: float
    beta: float
    k: float
    def __init__(self, size: _Optional[int] = ..., alpha: _Optional[float] = ..., beta: _Optional[float] = ..., k: _Optional[float] = ...) -> None: ...

class LpNormalize(_message.Message):
    __slots__ = ("p", "dim", "eps")
    P_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    p: float
    dim: int
    eps: float
    def __init__(self, p: _Optional[float] = ..., dim: _Optional[int] = ..., eps: _Optional[float] = ...) -> None: ...
