"""config.pbtxt: what a model's folder says about how it is to be served. Optional; the model's file completes it.

What is honoured is `name`, `max_batch_size`, `platform`, `backend`, `default_model_filename` and an empty
`dynamic_batching`; everything else is refused by name, because a setting that is silently ignored is worse than none.
"""

from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from normserve_proto import open_inference_pb2 as pb

from normserve_server.session import LoadError

FILE = "config.pbtxt"
MODEL = "model.onnx"
_HONOURED = {"name", "platform", "backend", "max_batch_size", "default_model_filename", "dynamic_batching"}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How a model is to be served.

    Attributes:
        filename: the model's file in each version's folder.
        max_batch_size: most samples in a run; 0 for no batching; None to find out from the file.
    """

    filename: str = MODEL
    max_batch_size: int | None = None


def read(folder: Path) -> ModelConfig:
    """Reads a model folder's config.pbtxt.

    Raises:
        LoadError: it is not a ModelConfig, contradicts its folder, or sets what this server does not offer.
    """
    path = folder / FILE
    if not path.exists():
        return ModelConfig()
    config = pb.ModelConfig()
    try:
        text_format.Parse(path.read_text(), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise LoadError(f"{FILE}: {error}") from None
    _check(config, folder.name)
    return ModelConfig(config.default_model_filename or MODEL, config.max_batch_size)


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
