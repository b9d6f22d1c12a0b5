"""`model_warmup`: the requests that a config wants to be run before its model serves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors
from normserve_proto.tensors import DTYPES, Array, TensorError

from normserve_server import model_files
from normserve_server.config_tensors import DATA_TYPES, fits
from normserve_server.errors import LoadError
from normserve_server.model_config import ModelConfig
from normserve_server.servable import Signature, TensorSpec

FOLDER = "warmup"  # in the model's folder
_SEED = 0  # the same data at each start, so that a start that failed can be repeated


@dataclass(frozen=True, slots=True)
class WarmUpRequest:
    """A request to be run before the model serves.

    Attributes:
        name: what the config calls it.
        count: how often it is to be run, >= 1.
        inputs: every input by name, as clients would send it, with the batch's extent where there is one.
    """

    name: str
    count: int
    inputs: Mapping[str, Array]


def read(folder: Path, config: ModelConfig, signature: Signature) -> tuple[WarmUpRequest, ...]:
    """Makes the requests.

    Args:
        folder: the model's; files of raw data are in its folder `warmup`.
        config: as it was read.
        signature: as clients see it.

    Raises:
        LoadError: an input is missing, unknown or does not fit the signature; a batch is too large; a file is not there,
            or has not as many bytes as its tensor takes.
    """
    return tuple(_request(folder, message, signature) for message in config.message.model_warmup)


def _request(folder: Path, message: pb.ModelWarmup, signature: Signature) -> WarmUpRequest:
    place = f"model_warmup '{message.name}'"
    most = max(signature.max_batch_size, 1)
    if message.batch_size > most:
        raise LoadError(f"{place}: batch_size is 1 to {most}, got {message.batch_size}")
    specs = {spec.name: spec for spec in signature.inputs}
    unknown, missing = sorted(set(message.inputs) - set(specs)), [name for name in specs if name not in message.inputs]
    if unknown or missing:
        raise LoadError(f"{place}: {'unknown' if unknown else 'missing'} input '{(unknown or missing)[0]}'")
    samples = (message.batch_size or 1,) if signature.max_batch_size else ()
    inputs = {
        name: _batch(folder, f"{place}, input '{name}'", message.inputs[name], spec, samples) for name, spec in specs.items()
    }
    return WarmUpRequest(message.name, message.count or 1, inputs)


def _batch(folder: Path, place: str, message: pb.ModelWarmup.Input, spec: TensorSpec, samples: tuple[int, ...]) -> Array:
    """The samples, all alike; one tensor without the batch's extent where `samples` is empty."""
    _check(place, message, spec, batched=len(samples))
    try:
        sample = _sample(folder, place, message, spec)
        return np.broadcast_to(sample, (*samples, *sample.shape)).copy()
    except (TensorError, ValueError, MemoryError) as error:  # what does not fit, and what no memory holds
        raise LoadError(f"{place}: {error}") from None


def _check(place: str, message: pb.ModelWarmup.Input, spec: TensorSpec, *, batched: int) -> None:
    if message.data_type != DATA_TYPES[spec.datatype]:
        told = pb.DataType.Name(message.data_type) if message.data_type in pb.DataType.values() else message.data_type
        raise LoadError(f"{place} is {spec.datatype}, got {told}")
    wanted, dims = spec.shape[batched:], list(message.dims)
    if not fits(wanted, dims) or any(dim < 0 for dim in dims):
        raise LoadError(f"{place} has dims {list(wanted)}, got {dims}")
    if message.WhichOneof("input_data_type") is None:
        raise LoadError(f"{place}: one of zero_data, random_data and input_data_file is wanted, got none")


def _sample(folder: Path, place: str, message: pb.ModelWarmup.Input, spec: TensorSpec) -> Array:
    shape = tuple(message.dims)
    if message.WhichOneof("input_data_type") == "input_data_file":
        raw = model_files.read(folder / FOLDER, message.input_data_file, f"{place}: input_data_file")
        return tensors.decode(spec.name, spec.datatype, shape, raw)
    dtype = DTYPES[spec.datatype]
    if spec.datatype == "BYTES":  # random strings would be of no known length
        return np.full(shape, b"", dtype)
    if message.WhichOneof("input_data_type") == "zero_data":
        return np.zeros(shape, dtype)
    generator = np.random.default_rng(_SEED)
    if dtype.kind in "biu":  # 0 and 1, which are indices in any table
        return generator.integers(0, 2, shape).astype(dtype)
    return generator.random(shape).astype(dtype)
