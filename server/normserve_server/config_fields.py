"""Which fields of ModelConfig are honoured; any other is refused by name, because a setting that is ignored is worse than none.

A message with no honoured field may be there, and may say only its defaults, which hold anyway: `decoupled: false`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

from normserve_server.errors import LoadError

HONOURED: Mapping[str, frozenset[str]] = {
    "ModelConfig": frozenset(
        {
            "name",
            "platform",
            "backend",
            "version_policy",
            "max_batch_size",
            "input",
            "output",
            "optimization",
            "dynamic_batching",
            "instance_group",
            "default_model_filename",
            "parameters",
            "model_warmup",
            "model_transaction_policy",
            "response_cache",
        }
    ),
    "ModelVersionPolicy": frozenset({"latest", "all", "specific"}),
    "ModelVersionPolicy.Latest": frozenset({"num_versions"}),
    "ModelVersionPolicy.All": frozenset(),
    "ModelVersionPolicy.Specific": frozenset({"versions"}),
    "ModelInput": frozenset({"name", "data_type", "format", "dims", "reshape"}),
    "ModelOutput": frozenset({"name", "data_type", "dims", "reshape", "label_filename"}),
    "ModelTensorReshape": frozenset({"shape"}),
    "ModelOptimizationPolicy": frozenset({"graph", "input_pinned_memory", "output_pinned_memory"}),
    "ModelOptimizationPolicy.Graph": frozenset({"level"}),
    "ModelOptimizationPolicy.PinnedMemoryBuffer": frozenset(),
    "ModelDynamicBatching": frozenset(
        {
            "preferred_batch_size",
            "max_queue_delay_microseconds",
            "preserve_ordering",
            "priority_levels",
            "default_priority_level",
            "default_queue_policy",
            "priority_queue_policy",
        }
    ),
    "ModelQueuePolicy": frozenset(
        {
            "timeout_action",
            "default_timeout_microseconds",
            "allow_timeout_override",
            "max_queue_size",
        }
    ),
    "ModelInstanceGroup": frozenset({"name", "kind", "count", "gpus"}),
    "ModelParameter": frozenset({"string_value"}),
    "ModelWarmup": frozenset({"name", "batch_size", "inputs", "count"}),
    "ModelWarmup.Input": frozenset({"data_type", "dims", "zero_data", "random_data", "input_data_file"}),
    "ModelTransactionPolicy": frozenset(),
    "ModelResponseCache": frozenset(),
}


def check(message: Message) -> None:
    """Refuses what is not in the table.

    Args:
        message: a ModelConfig.

    Raises:
        LoadError: it sets other fields; the text names each with its path.
    """
    others = sorted(_refused(message, ""))
    if others:
        raise LoadError(f"{', '.join(others)} is not offered by this server")


def _refused(message: Message, path: str) -> Iterator[str]:
    honoured = HONOURED[kind_of(message.DESCRIPTOR.full_name)]
    for field, value in message.ListFields():
        place = f"{path}{field.name}"
        if field.name not in honoured:
            yield place
        elif field.message_type is not None:
            for inner_place, inner in _messages(place, value):
                yield from _refused(inner, f"{inner_place}.")


def kind_of(full_name: str) -> str:
    """A message type's name as the table has it."""
    return full_name.removeprefix("inference.")


def _messages(place: str, value: Any) -> Iterator[tuple[str, Message]]:
    """What a field holds: a message, a list of messages, or messages by key."""
    if isinstance(value, Message):
        yield place, value
    elif hasattr(value, "items"):
        yield from ((f"{place}[{key}]", inner) for key, inner in sorted(value.items()))
    else:
        yield from ((f"{place}[{position}]", inner) for position, inner in enumerate(value))
