"""How a model is to be served: what its config.pbtxt, or a load call's override, says. Optional; the model's file completes it.

Every field of Triton's ModelConfig is honoured or refused by name; `config_fields` has the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normserve_proto import open_inference_pb2 as pb

from normserve_server import (
    config_batching,
    config_fields,
    config_instances,
    config_parameters,
    config_tensors,
    config_text,
    model_files,
)
from normserve_server.config_batching import Batching, QueuePolicy
from normserve_server.config_instances import InstanceGroup
from normserve_server.config_text import Parsed
from normserve_server.errors import LoadError
from normserve_server.reshaping import Reshape

__all__ = ["FILE", "MODEL", "Batching", "InstanceGroup", "ModelConfig", "QueuePolicy", "read"]

FILE = "config.pbtxt"
MODEL = "model.onnx"
PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How a model is to be served.

    Attributes:
        filename: the model's file in each version's folder.
        max_batch_size: most samples in a run; 0 for no batching; None to find out from the file.
        batching: how batches are cut.
        instances: at least one group.
        threads: within one operator; None for the service's choice.
        labels: by output, the labels of its classes.
        graph_optimization: the name of onnxruntime's GraphOptimizationLevel.
        input_reshapes: by name, inputs that clients see in another shape than the model's file has them.
        output_reshapes: likewise.
        operators: by tensor, what is applied to it before or behind the model; see `joining`.
        message: config.pbtxt as it was given; empty where there is none.
    """

    filename: str = MODEL
    max_batch_size: int | None = None
    batching: Batching = field(default_factory=Batching)
    instances: tuple[InstanceGroup, ...] = (InstanceGroup(),)
    threads: int | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    graph_optimization: str = "ORT_ENABLE_ALL"
    input_reshapes: Mapping[str, Reshape] = field(default_factory=dict)
    output_reshapes: Mapping[str, Reshape] = field(default_factory=dict)
    operators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    message: pb.ModelConfig = field(default_factory=pb.ModelConfig, compare=False)


def read(folder: Path, override: str | None = None) -> ModelConfig:
    """Reads how the model in a folder is to be served.

    Args:
        folder: the model's, whose name is the model's name.
        override: JSON text that stands in for config.pbtxt, as a load call's parameter `config` has it.

    Raises:
        LoadError: it is not a ModelConfig, contradicts itself or its folder, or sets what this server does not offer.
    """
    try:
        parsed = config_text.from_file(folder / FILE) if override is None else config_text.from_json(override)
        return ModelConfig() if parsed is None else _config(folder, parsed)
    except LoadError as error:
        raise LoadError(f"{FILE if override is None else 'config'}: {error}") from None


def _config(folder: Path, parsed: Parsed) -> ModelConfig:
    message = parsed.message
    config_fields.check(message)
    config_parameters.check(message.parameters)
    _check_model(message, folder.name)
    _check_versions(message.version_policy)
    config_tensors.check("input", message.input)
    config_tensors.check("output", message.output)
    config_tensors.check_formats(message.input)
    max_batch_size = _max_batch_size(parsed)
    batching = config_batching.read(message.dynamic_batching, config_parameters.buckets(message.parameters))
    if max_batch_size is not None:
        config_batching.check(batching, max_batch_size)
    return ModelConfig(
        filename=message.default_model_filename or MODEL,
        max_batch_size=max_batch_size,
        batching=batching,
        instances=config_instances.read(message.instance_group),
        threads=config_parameters.threads(message.parameters),
        labels=config_tensors.labels(folder, message.output),
        graph_optimization=config_parameters.graph_optimization(message.optimization),
        input_reshapes=config_tensors.reshapes(message.input),
        output_reshapes=config_tensors.reshapes(message.output),
        operators=config_parameters.operators(message.parameters),
        message=message,
    )


def _check_model(message: pb.ModelConfig, model: str) -> None:
    if message.name not in {"", model}:
        raise LoadError(f"name is '{message.name}', the folder's is '{model}'")
    for field_name, wanted in (("platform", PLATFORM), ("backend", BACKEND)):
        given = getattr(message, field_name)
        if given not in {"", wanted}:
            raise LoadError(f"{field_name} is '{wanted}', which is all that serves here, got '{given}'")
    filename = message.default_model_filename
    if filename and not model_files.is_plain(filename):
        raise LoadError(f"default_model_filename is a plain file name, got '{filename}'")


def _check_versions(policy: pb.ModelVersionPolicy) -> None:
    choice = policy.WhichOneof("policy_choice")
    if choice == "latest" and policy.latest.num_versions < 1:
        raise LoadError(f"version_policy.latest.num_versions is >= 1, got {policy.latest.num_versions}")
    versions = list(policy.specific.versions)
    if choice == "specific" and (not versions or min(versions) < 1):
        raise LoadError(f"version_policy.specific.versions are numbers >= 1, at least one, got {versions}")


def _max_batch_size(parsed: Parsed) -> int | None:
    """None where the model's file is to tell. Where all shapes are declared and no batch, `dims` are whole shapes."""
    message = parsed.message
    if message.max_batch_size < 0:
        raise LoadError(f"max_batch_size is >= 0, got {message.max_batch_size}")
    declared = bool(message.input and message.output)
    return message.max_batch_size if parsed.max_batch_size_given or declared else None
