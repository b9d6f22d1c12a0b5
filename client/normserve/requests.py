"""The Open Inference Protocol's calls as pure functions: arguments to request bytes, response bytes to answers.

Nothing here touches a network. A `Call` is what both clients send and read, so that each of them only has to know how to wait.
"""

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors, wire
from normserve_proto.tensors import Array, TensorError

from normserve import answers
from normserve.errors import InternalError, InvalidArgumentError
from normserve.results import ModelIndex, ModelMetadata, ModelStatistics, ServerMetadata

T = TypeVar("T")
Parameter = bool | int | float | str

_SERVICE = "/inference.GRPCInferenceService/"
SERVER_LIVE = _SERVICE + "ServerLive"
SERVER_READY = _SERVICE + "ServerReady"
MODEL_READY = _SERVICE + "ModelReady"
SERVER_METADATA = _SERVICE + "ServerMetadata"
MODEL_METADATA = _SERVICE + "ModelMetadata"
MODEL_CONFIG = _SERVICE + "ModelConfig"
MODEL_STATISTICS = _SERVICE + "ModelStatistics"
MODEL_INFER = _SERVICE + "ModelInfer"
MODEL_STREAM_INFER = _SERVICE + "ModelStreamInfer"  # no unary call, and never sent again: some of it may have been answered
REPOSITORY_INDEX = _SERVICE + "RepositoryIndex"
REPOSITORY_LOAD = _SERVICE + "RepositoryModelLoad"
REPOSITORY_UNLOAD = _SERVICE + "RepositoryModelUnload"
NORMALIZE = "/normserve.v1.NormalizationService/Normalize"
NORMALIZE_STREAM = NORMALIZE + "Stream"  # likewise
REGISTER = _SERVICE + "SystemSharedMemoryRegister"
UNREGISTER = _SERVICE + "SystemSharedMemoryUnregister"
_NORMALIZERS = "/normserve.v1.NormalizerService/"
CREATE_NORMALIZER = _NORMALIZERS + "CreateNormalizer"
GET_NORMALIZER = _NORMALIZERS + "GetNormalizer"
LIST_NORMALIZERS = _NORMALIZERS + "ListNormalizers"
UPDATE_NORMALIZER = _NORMALIZERS + "UpdateNormalizer"
DELETE_NORMALIZER = _NORMALIZERS + "DeleteNormalizer"
APPLY_NORMALIZER = _NORMALIZERS + "ApplyNormalizer"
OBSERVE_NORMALIZER = _NORMALIZERS + "ObserveNormalizer"
GET_STATE_DICT = _NORMALIZERS + "GetStateDict"
LOAD_STATE_DICT = _NORMALIZERS + "LoadStateDict"
GET_SNAPSHOT = _NORMALIZERS + "GetSnapshot"

METHODS = (
    SERVER_LIVE,
    SERVER_READY,
    MODEL_READY,
    SERVER_METADATA,
    MODEL_METADATA,
    MODEL_CONFIG,
    MODEL_STATISTICS,
    MODEL_INFER,
    REPOSITORY_INDEX,
    REPOSITORY_LOAD,
    REPOSITORY_UNLOAD,
    NORMALIZE,
    CREATE_NORMALIZER,
    GET_NORMALIZER,
    LIST_NORMALIZERS,
    APPLY_NORMALIZER,
    OBSERVE_NORMALIZER,
    GET_STATE_DICT,
    LOAD_STATE_DICT,
    GET_SNAPSHOT,
)
# Not sent again by themselves: they would fail for having worked.
ONCE = (REGISTER, UNREGISTER, UPDATE_NORMALIZER, DELETE_NORMALIZER)
ALL_METHODS = (*METHODS, *ONCE)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary call, before it is sent.

    Attributes:
        method: the path, one of `ALL_METHODS`.
        request: the serialized request.
        parse: reads the serialized response.
    """

    method: str
    request: bytes
    parse: Callable[[bytes], T]

    def read(self, response: bytes) -> T:
        """Reads the response.

        Raises:
            InternalError: the bytes are not such a message, or a tensor in it does not fit its own description.
        """
        try:
            return self.parse(response)
        except (DecodeError, TensorError) as error:
            raise InternalError(f"the server's answer cannot be read: {error}") from error


Steps = Generator[Call[Any], Any, T]  # calls one after the other: each is sent its answer, or thrown its error


@dataclass(frozen=True, slots=True)
class Inference:
    """A ModelInfer request, before it is decided how its tensors travel.

    Attributes:
        message: the request, without its tensors' bytes.
        raw: the bytes of each input.
    """

    message: pb.ModelInferRequest
    raw: Sequence[tensors.Buffer]

    def call(self) -> Call[dict[str, Array]]:
        """Gives the call with all tensors in the message."""
        return Call(MODEL_INFER, joined(self.message, self.raw), answers.infer)


def infer(
    model: str,
    inputs: Mapping[str, Array],
    *,
    version: str = "",
    outputs: Iterable[str] | None = None,
    request_id: str = "",
    parameters: Mapping[str, Parameter] | None = None,
) -> Inference:
    """Runs a model; see `Client.infer`.

    Raises:
        InvalidArgumentError: a dtype has no name on the wire, or a parameter cannot travel.
    """
    arrays = {name: np.asarray(array) for name, array in inputs.items()}
    raw = [encode_input(name, array) for name, array in arrays.items()]
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=tensors.datatype_of(array), shape=array.shape)
    for name in outputs or ():
        request.outputs.add(name=name)
    for key, value in (parameters or {}).items():
        request.parameters[key].CopyFrom(_parameter(key, value))
    return Inference(request, raw)


def joined(message: pb.ModelInferRequest, raw: Sequence[tensors.Buffer]) -> bytes:
    """Serializes a request with its inputs' bytes."""
    return wire.join(message.SerializeToString(), wire.RAW_INPUT_CONTENTS, raw)


def server_live() -> Call[bool]:
    """Asks whether the server answers."""
    return Call(SERVER_LIVE, b"", lambda response: pb.ServerLiveResponse.FromString(response).live)


def ready(model: str | None, version: str) -> Call[bool]:
    """Asks whether a model serves, or without one whether everything does."""
    if model is None:
        return Call(SERVER_READY, b"", lambda response: pb.ServerReadyResponse.FromString(response).ready)
    request = pb.ModelReadyRequest(name=model, version=version).SerializeToString()
    return Call(MODEL_READY, request, lambda response: pb.ModelReadyResponse.FromString(response).ready)


def model_metadata(model: str, version: str) -> Call[ModelMetadata]:
    """Asks for a model's inputs and outputs."""
    request = pb.ModelMetadataRequest(name=model, version=version).SerializeToString()
    return Call(MODEL_METADATA, request, answers.model_metadata)


def model_config(model: str, version: str) -> Call[dict[str, Any]]:
    """Asks how a model is served."""
    request = pb.ModelConfigRequest(name=model, version=version).SerializeToString()
    return Call(MODEL_CONFIG, request, answers.model_config)


def statistics(model: str, version: str) -> Call[tuple[ModelStatistics, ...]]:
    """Asks what requests add up to."""
    request = pb.ModelStatisticsRequest(name=model, version=version).SerializeToString()
    return Call(MODEL_STATISTICS, request, answers.statistics)


def server_metadata() -> Call[ServerMetadata]:
    """Asks for the server's name, version and extensions."""
    return Call(SERVER_METADATA, b"", answers.server_metadata)


def repository_index(*, only_ready: bool) -> Call[tuple[ModelIndex, ...]]:
    """Asks for every version in the repository."""
    request = pb.RepositoryIndexRequest(ready=only_ready).SerializeToString()
    return Call(REPOSITORY_INDEX, request, answers.repository_index)


def register(name: str, key: str, byte_size: int) -> Call[None]:
    """Registers all of a shared memory object as a region."""
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=byte_size).SerializeToString()
    return Call(REGISTER, request, answers.nothing)


def unregister(name: str) -> Call[None]:
    """Makes the server forget a region."""
    request = pb.SystemSharedMemoryUnregisterRequest(name=name).SerializeToString()
    return Call(UNREGISTER, request, answers.nothing)


def load_model(model: str, config: Mapping[str, Any] | str | None, files: Mapping[str, bytes] | None) -> Call[None]:
    """Asks for a model to be loaded; see `Client.load_model`."""
    request = pb.RepositoryModelLoadRequest(model_name=model)
    try:
        if config is not None:
            request.parameters["config"].string_param = config if isinstance(config, str) else json.dumps(config)
        for path, content in (files or {}).items():
            request.parameters[f"file:{path}"].bytes_param = content
    except TypeError as error:
        raise InvalidArgumentError(f"model '{model}': config is JSON and files are bytes: {error}") from error
    return Call(REPOSITORY_LOAD, request.SerializeToString(), answers.nothing)


def unload_model(model: str) -> Call[None]:
    """Asks for a model to be unloaded."""
    return Call(REPOSITORY_UNLOAD, pb.RepositoryModelUnloadRequest(model_name=model).SerializeToString(), answers.nothing)


def encode_input(name: str, array: Array) -> tensors.Buffer:
    """Gives the raw bytes of an argument.

    Raises:
        InvalidArgumentError: its dtype has no name on the wire; the text names it.
    """
    try:
        return tensors.encode(array)
    except TensorError as error:
        raise InvalidArgumentError(f"input '{name}': {error}") from error


def _parameter(key: str, value: Parameter) -> pb.InferParameter:
    match value:
        case bool():
            return pb.InferParameter(bool_param=value)
        case int() if -(2**63) <= value < 2**63:
            return pb.InferParameter(int64_param=value)
        case int() if 0 < value < 2**64:
            return pb.InferParameter(uint64_param=value)
        case float():
            return pb.InferParameter(double_param=value)
        case str():
            return pb.InferParameter(string_param=value)
    raise InvalidArgumentError(f"parameter '{key}': wanted a bool, a str, a float or an int of 64 bits, got {value!r}")
