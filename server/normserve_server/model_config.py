"""config.pbtxt: what a model's folder says about how it is to be served. Optional; the model's file completes it.

What is honoured is `name`, `max_batch_size`, `platform`, `backend`, `default_model_filename` and an empty
`dynamic_batching`; everything else is refused by name, because a setting that is silently ignored is worse than none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from google.protobuf import json_format, text_format
from normserve_proto import open_inference_pb2 as pb

from normserve_server.session import LoadError

FILE = "config.pbtxt"
MODEL = "model.onnx"
_HONOURED = {"name", "version_policy", "platform", "backend", "max_batch_size", "default_model_filename", "dynamic_batching"}


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How long requests of one priority wait, and how many.

    Attributes:
        timeout_seconds: longest stay in the queue where the request says nothing; None for any.
        timeout_override: whether a request may choose a shorter or longer stay.
        delay_expired: those whose time is over wait behind all others, instead of being refused.
        max_queue_size: most requests that wait; None for the server's setting.
    """

    timeout_seconds: float | None = None
    timeout_override: bool = True
    delay_expired: bool = False
    max_queue_size: int | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """How batches are cut; ModelDynamicBatching's fields in this service's units.

    Attributes:
        preferred_sizes: sizes, in samples, worth waiting for, ascending; empty for the largest that there is.
        max_delay_seconds: longest wait for company; 0 for none.
        preserve_ordering: answers leave in the order that requests came.
        priority_levels: priorities are 1, the highest, to this; 0 where all requests are equal.
        default_priority: of a request that names none.
        policy: of every priority that has none of its own in `policies`.
        policies: by priority.
        buckets: sizes that batches are padded to, ascending; empty for none; None for the device's default.
    """

    preferred_sizes: tuple[int, ...] = ()
    max_delay_seconds: float = 0.0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority: int = 0
    policy: QueuePolicy = QueuePolicy()
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)
    buckets: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Instances of one kind.

    Attributes:
        count: how many; for each GPU of `gpus` where there are some.
        kind: "auto" for the server's device, "cpu" or "gpu".
        gpus: numbers of the GPUs; empty for the server's, or all.
    """

    count: int = 1
    kind: Literal["auto", "cpu", "gpu"] = "auto"
    gpus: tuple[int, ...] = ()


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
        message: config.pbtxt as it was given; empty where there is none.
    """

    filename: str = MODEL
    max_batch_size: int | None = None
    batching: Batching = Batching()
    instances: tuple[InstanceGroup, ...] = (InstanceGroup(),)
    threads: int | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    message: pb.ModelConfig = field(default_factory=pb.ModelConfig, compare=False)


def read(folder: Path, override: str | None = None) -> ModelConfig:
    """Reads a model folder's config.pbtxt.

    Args:
        folder: the model's folder.
        override: JSON text that takes the file's place.

    Raises:
        LoadError: it is not a ModelConfig, contradicts its folder, or sets what this server does not offer.
    """
    if override is not None:
        return _read_json(override, folder.name)
    path = folder / FILE
    if not path.exists():
        return ModelConfig()
    config = pb.ModelConfig()
    try:
        text_format.Parse(path.read_text(), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise LoadError(f"{FILE}: {error}") from None
    _check(config, folder.name)
    return ModelConfig(config.default_model_filename or MODEL, config.max_batch_size, message=config)


def _read_json(text: str, model: str) -> ModelConfig:
    config = pb.ModelConfig()
    try:
        json_format.Parse(text, config)
    except json_format.ParseError as error:
        raise LoadError(f"config: {error}") from None
    _check(config, model)
    return ModelConfig(config.default_model_filename or MODEL, config.max_batch_size, message=config)


def _check(config: pb.ModelConfig, model: str) -> None:
    given = {field.name for field, _ in config.ListFields()}
    others = sorted(given - _HONOURED)
    if others:
        raise LoadError(f"{FILE}: {', '.join(others)} is not offered by this server")
    if config.dynamic_batching.ListFields():
        raise LoadError(f"{FILE}: fields of dynamic_batching are not offered by this server; leave it empty")
    if config.name not in {"", model}:
        raise LoadError(f"{FILE}: name is '{config.name}', the folder's is '{model}'")
    if config.platform not in {"", "onnxruntime_onnx"} or config.backend not in {"", "onnxruntime"}:
        raise LoadError(f"{FILE}: only onnxruntime serves here, got '{config.platform or config.backend}'")
    if config.max_batch_size < 0:
        raise LoadError(f"{FILE}: max_batch_size is >= 0, got {config.max_batch_size}")
    if Path(config.default_model_filename).name != config.default_model_filename:
        raise LoadError(f"{FILE}: default_model_filename is a plain file name, got '{config.default_model_filename}'")
