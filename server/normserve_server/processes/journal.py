"""What was changed in all workers by call, so that a worker that comes later can be told: pure bookkeeping, without I/O.

Only what still counts is kept: of two loads of a model the later one, of trace settings all that were set, added up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.shared_memory import LEASED

Subject: TypeAlias = tuple[str, ...]


@dataclass(slots=True, eq=False)
class Change:
    """A call that changes what workers hold.

    Attributes:
        method: the RPC.
        data: the serialized request.
        subject: what it changes: ("model", name), ("region", name) or ("region",) for all of them, ("trace", model), ("log",).
        ends: nothing of the subject is left that a new worker could be told.
        adds: what was set before and is not named here stays.
    """

    method: str
    data: bytes
    subject: Subject
    ends: bool = False
    adds: bool = False

    @property
    def turn(self) -> Subject:
        """Changes of one turn are made one after another, in the same order everywhere; others may be made at once."""
        return self.subject if self.subject[0] == "model" else self.subject[:1]


class Journal:
    """The changes that count, in the order they were made.

    Attributes:
        changes: those that were accepted or are on their way.
    """

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def note(self, change: Change) -> None:
        """Takes up a change that is about to be made."""
        self.changes.append(change)

    def settle(self, change: Change, *, accepted: bool) -> None:
        """Learns what came of a change: a worker has taken it, or none has."""
        if not accepted:
            self.changes.remove(change)
            return
        for older in self._before(change):
            self.changes.remove(older)
            if change.adds:
                change.data = _added(change.method, older.data, change.data)
        if change.ends:
            self.changes.remove(change)

    def _before(self, change: Change) -> list[Change]:
        older = self.changes[: self.changes.index(change)]
        return [other for other in older if other.subject[: len(change.subject)] == change.subject]


def change_of(method: str, data: bytes) -> Change | None:
    """Finds out what a request changes; None where it changes nothing, or is no request."""
    make = _CHANGES.get(method)
    if make is None:
        return None
    try:
        request = _request(method, data)
    except DecodeError:  # each worker will say so
        return None
    return make(method, data, request)


def _model(method: str, data: bytes, request: Any) -> Change:
    return Change(method, data, ("model", request.model_name))


def _region(method: str, data: bytes, request: Any) -> Change:
    # An object on lease has lost its name by the time that a worker comes later; its owner registers another one there.
    return Change(method, data, ("region", request.name), ends=request.name.startswith(LEASED))


def _no_region(method: str, data: bytes, request: Any) -> Change:
    subject = ("region", request.name) if request.name else ("region",)
    return Change(method, data, subject, ends=True)


def _trace(method: str, data: bytes, request: Any) -> Change | None:
    return Change(method, data, ("trace", request.model_name), adds=True) if request.settings else None


def _log(method: str, data: bytes, request: Any) -> Change | None:
    return Change(method, data, ("log",), adds=True) if request.settings else None


_CHANGES: dict[str, Callable[[str, bytes, Any], Change | None]] = {
    "RepositoryModelLoad": _model,
    "RepositoryModelUnload": _model,
    "SystemSharedMemoryRegister": _region,
    "SystemSharedMemoryUnregister": _no_region,
    "TraceSetting": _trace,
    "LogSettings": _log,
}


def _added(method: str, older: bytes, newer: bytes) -> bytes:
    """Both requests in one; of a setting that both name, the newer's value."""
    both = _request(method, older)
    both.MergeFrom(_request(method, newer))
    return bytes(both.SerializeToString())


def _request(method: str, data: bytes) -> Any:
    return getattr(pb, f"{method}Request").FromString(data)
