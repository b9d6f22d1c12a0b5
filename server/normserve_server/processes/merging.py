"""One answer from those of all workers: ModelStatistics added up; of everything else the first, since all are alike."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from normserve_proto import open_inference_pb2 as pb

# By message: the fields that say which entries of a list are about the same thing.
_SAME = {
    "ModelStatistics": ("name", "version"),
    "InferBatchStatistics": ("batch_size",),
    "MemoryUsage": ("type", "id"),
}
_LATEST = "last_inference"


def merged(method: str, answers: Sequence[bytes]) -> bytes:
    """Gives the serialized answer that the caller of all workers gets.

    Args:
        method: the RPC.
        answers: the workers' answers, serialized; at least one.
    """
    if method != "ModelStatistics":
        return answers[0]
    total = pb.ModelStatisticsResponse()
    for answer in answers:
        _add(total, pb.ModelStatisticsResponse.FromString(answer))
    return bytes(total.SerializeToString())


def _add(total: Any, other: Any) -> None:
    """Adds a message to another of its kind: numbers add up, lists and maps are joined by what their entries are about."""
    for field, value in other.ListFields():
        mine = getattr(total, field.name)
        if isinstance(value, Message):
            _add(mine, value)
        elif field.message_type is None:
            _add_number(total, field.name, value)
        elif field.message_type.GetOptions().map_entry:
            for key in value:
                _add(mine[key], value[key])
        else:
            for entry in value:
                _add(_entry(mine, _SAME[field.message_type.name], entry), entry)


def _add_number(total: Any, name: str, value: int) -> None:
    if name not in _SAME.get(total.DESCRIPTOR.name, ()):
        mine = getattr(total, name)
        setattr(total, name, max(mine, value) if name == _LATEST else mine + value)


def _entry(entries: Any, names: Sequence[str], wanted: Any) -> Any:
    """The entry that is about the same thing; a new one where there is none."""
    about = {name: getattr(wanted, name) for name in names}
    for entry in entries:
        if all(getattr(entry, name) == value for name, value in about.items()):
            return entry
    return entries.add(**about)
