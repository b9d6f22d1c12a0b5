"""The Open Inference Protocol's answers as pure functions: response bytes to what the verbs give; `requests`' other half."""

from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors, wire
from normserve_proto.tensors import Array, TensorError

from normserve.errors import InternalError, NormserveError
from normserve.results import (
    Duration,
    ModelIndex,
    ModelMetadata,
    ModelStatistics,
    ServerMetadata,
    StreamAnswer,
    TensorMetadata,
)

_INFER_RESPONSE = 2  # the field's number in ModelStreamInferResponse


def stream_answer(data: bytes) -> StreamAnswer:
    """Reads one answer of `MODEL_STREAM_INFER`, whose requests are those of `requests.infer`.

    Raises:
        InternalError: the bytes are not such a message, or a tensor in it does not fit its own description.
    """
    try:
        head, answers = wire.split(data, _INFER_RESPONSE)
        response = pb.ModelStreamInferResponse.FromString(head)
        if response.error_message:
            return StreamAnswer(NormserveError(response.error_message), {})
        if not answers:
            return StreamAnswer(None, _decoded(response.infer_response, None))
        inner, raw = wire.split(answers[0], wire.RAW_OUTPUT_CONTENTS)
        return StreamAnswer(None, _decoded(pb.ModelInferResponse.FromString(bytes(inner)), raw))
    except (DecodeError, TensorError) as error:
        raise InternalError(f"the server's answer cannot be read: {error}") from error


def nothing(_data: bytes) -> None:
    """These answers are empty messages."""


def infer(data: bytes) -> dict[str, Array]:
    """Reads the outputs by name."""
    return _decoded(*split(data))


def _decoded(response: pb.ModelInferResponse, raw: Sequence[tensors.Buffer] | None) -> dict[str, Array]:
    return tensors.decode_all(response.outputs, response.raw_output_contents if raw is None else raw)


def split(data: bytes) -> tuple[pb.ModelInferResponse, Sequence[tensors.Buffer]]:
    """Separates an answer's message and the bytes of its outputs, which are views of `data`.

    Raises:
        DecodeError: it is not a ModelInferResponse.
    """
    head, raw = wire.split(data, wire.RAW_OUTPUT_CONTENTS)
    response = pb.ModelInferResponse.FromString(head)
    return response, response.raw_output_contents if raw is None else raw


def model_metadata(data: bytes) -> ModelMetadata:
    """Reads a model's inputs and outputs."""
    response = pb.ModelMetadataResponse.FromString(data)
    return ModelMetadata(
        name=response.name,
        versions=tuple(response.versions),
        platform=response.platform,
        inputs=_tensor_metadata(response.inputs),
        outputs=_tensor_metadata(response.outputs),
        properties=dict(response.properties),
    )


def _tensor_metadata(
    messages: Sequence[pb.ModelMetadataResponse.TensorMetadata],
) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(message.name, message.datatype, tuple(message.shape)) for message in messages)


def model_config(data: bytes) -> dict[str, Any]:
    """Reads how a model is served: the fields that are set."""
    config = pb.ModelConfigResponse.FromString(data).config
    return json_format.MessageToDict(config, preserving_proto_field_name=True)


def statistics(data: bytes) -> tuple[ModelStatistics, ...]:
    """Reads what requests add up to."""
    return tuple(_statistics(model) for model in pb.ModelStatisticsResponse.FromString(data).model_stats)


def _statistics(model: pb.ModelStatistics) -> ModelStatistics:
    stats = model.inference_stats
    names = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    durations = {name: getattr(stats, name) for name in names}
    return ModelStatistics(
        name=model.name,
        version=model.version,
        samples=model.inference_count,
        executions=model.execution_count,
        **{name: Duration(duration.count, duration.ns / 1e9) for name, duration in durations.items()},
    )


def server_metadata(data: bytes) -> ServerMetadata:
    """Reads the server's name, version and extensions."""
    response = pb.ServerMetadataResponse.FromString(data)
    return ServerMetadata(response.name, response.version, tuple(response.extensions))


def repository_index(data: bytes) -> tuple[ModelIndex, ...]:
    """Reads the versions in the repository."""
    models = pb.RepositoryIndexResponse.FromString(data).models
    return tuple(ModelIndex(model.name, model.version, model.state, model.reason) for model in models)
