"""A config against the model's file: what clients see of its inputs and outputs."""

from collections.abc import Sequence
from dataclasses import replace

from normserve_proto import open_inference_pb2 as pb

from normserve_server import config_batching
from normserve_server.config_tensors import DATA_TYPES, Declared, fits
from normserve_server.errors import LoadError
from normserve_server.model_config import ModelConfig
from normserve_server.servable import Signature, TensorSpec


def narrowed(signature: Signature, config: ModelConfig) -> Signature:
    """Holds a config against the signature of the model's file.

    Args:
        signature: the file's.
        config: what is declared; tensors that it leaves out are the file's.

    Returns:
        What clients see: where the file takes any extent and the config says a number, the number; where there is a
        `reshape`, the `dims` in front of it.

    Raises:
        LoadError: a declared name, datatype or shape is not the file's, or a batch size is larger than the largest.
    """
    config_batching.check(config.batching, signature.max_batch_size)
    batched = 1 if signature.max_batch_size else 0
    inputs = _narrowed("input", signature.inputs, config.message.input, batched)
    outputs = _narrowed("output", signature.outputs, config.message.output, batched)
    return Signature(inputs, outputs, signature.max_batch_size)


def _narrowed(kind: str, specs: Sequence[TensorSpec], declared: Sequence[Declared], batched: int) -> tuple[TensorSpec, ...]:
    tensors = {tensor.name: tensor for tensor in declared}
    names = [spec.name for spec in specs]
    unknown = [name for name in tensors if name not in names]
    if unknown:
        raise LoadError(f"the config declares {kind} '{unknown[0]}', the model's file has {', '.join(names) or 'none'}")
    return tuple(_seen(kind, spec, tensors[spec.name], batched) if spec.name in tensors else spec for spec in specs)


def _seen(kind: str, spec: TensorSpec, tensor: Declared, batched: int) -> TensorSpec:
    if tensor.data_type not in {pb.TYPE_INVALID, DATA_TYPES[spec.datatype]}:
        told = pb.DataType.Name(tensor.data_type)
        raise LoadError(f"the config declares {kind} '{spec.name}' as {told}, the model's file has {spec.datatype}")
    if not tensor.dims and not tensor.HasField("reshape"):
        return spec
    _check_shape(kind, spec, tensor, batched)
    return replace(spec, shape=spec.shape[:batched] + tuple(tensor.dims))


def _check_shape(kind: str, spec: TensorSpec, tensor: Declared, batched: int) -> None:
    field, told = ("reshape.shape", tensor.reshape.shape) if tensor.HasField("reshape") else ("dims", tensor.dims)
    extents = spec.shape[batched:]
    if not fits(extents, told):
        batch = " behind the batch's extent" if batched else ""
        raise LoadError(
            f"the config declares {kind} '{spec.name}' with {field} {list(told)}, the model's file has {list(extents)}{batch}"
        )
