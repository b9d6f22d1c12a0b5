"""The whole of a model's configuration, completed from its file and from what is really used: the answer of ModelConfig."""

from collections.abc import Sequence
from typing import TypeVar

from normserve_proto import open_inference_pb2 as pb

from normserve_server import config_instances, config_parameters
from normserve_server.config_instances import InstanceGroup
from normserve_server.config_tensors import DATA_TYPES
from normserve_server.model_config import BACKEND, PLATFORM, ModelConfig
from normserve_server.servable import Signature, TensorSpec

Tensor = TypeVar("Tensor", pb.ModelInput, pb.ModelOutput)


def completed(
    config: ModelConfig,
    signature: Signature,
    *,
    model: str,
    instances: Sequence[InstanceGroup],
    threads: int,
    buckets: Sequence[int],
) -> pb.ModelConfig:
    """Completes a config. What it gives can be read again, as a load call's `config`, and is then the same.

    Args:
        config: as it was read.
        signature: as clients see it; see `config_signature.narrowed`.
        model: the model's name.
        instances: the groups that there are, of kind "cpu" or "gpu".
        threads: within one operator; 0 for one a core.
        buckets: sizes that batches are padded to, in samples, ascending; empty for no padding.

    Returns:
        A message of its own; `dims` leave the batch's extent out.
    """
    message = pb.ModelConfig()
    message.CopyFrom(config.message)
    message.name, message.platform, message.backend = model, PLATFORM, BACKEND
    message.default_model_filename = config.filename
    message.max_batch_size = signature.max_batch_size
    if message.version_policy.WhichOneof("policy_choice") is None:
        message.version_policy.latest.num_versions = 1
    _complete_tensors(message, signature)
    groups = [config_instances.message_of(group, f"{model}_{position}") for position, group in enumerate(instances)]
    del message.instance_group[:]
    message.instance_group.extend(groups)
    for key, parameter in config_parameters.message_of(threads, tuple(buckets)).items():
        message.parameters[key].CopyFrom(parameter)
    if signature.max_batch_size:
        message.dynamic_batching.SetInParent()
    message.model_transaction_policy.SetInParent()
    return message


def _complete_tensors(message: pb.ModelConfig, signature: Signature) -> None:
    batched = 1 if signature.max_batch_size else 0
    inputs = [_completed(pb.ModelInput, spec, message.input, batched) for spec in signature.inputs]
    outputs = [_completed(pb.ModelOutput, spec, message.output, batched) for spec in signature.outputs]
    del message.input[:], message.output[:]
    message.input.extend(inputs)
    message.output.extend(outputs)


def _completed(kind: type[Tensor], spec: TensorSpec, declared: Sequence[Tensor], batched: int) -> Tensor:
    tensor = kind()
    for same in declared:
        if same.name == spec.name:
            tensor.CopyFrom(same)
    tensor.name = spec.name
    tensor.data_type = DATA_TYPES[spec.datatype]
    tensor.dims[:] = spec.shape[batched:]
    return tensor
