"""What one worker answered to a call that all of them got, and how that travels: as messages of `repeated bytes`.

Refusals travel inside, so that whatever gRPC itself says between the processes is about the processes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from normserve_proto import wire
from normserve_proto.tensors import Buffer

_FIELD = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, or a refusal.

    Attributes:
        data: the serialized answer; empty for a refusal.
        code: OK for an answer.
        text: why it was refused.
        retry_after_ms: what a refusal says to retry policies.
        labels: model and version of the call, as metrics name them.
    """

    data: bytes = b""
    code: grpc.StatusCode = grpc.StatusCode.OK
    text: str = ""
    retry_after_ms: int | None = None
    labels: tuple[str, str] = ("", "")

    @property
    def ok(self) -> bool:
        """Whether it is an answer."""
        return self.code is grpc.StatusCode.OK


def pack(outcome: Outcome) -> bytes:
    """Gives the bytes that `unpack` reads."""
    head = json.dumps([outcome.code.name, outcome.text, outcome.retry_after_ms, outcome.labels])
    return wire.join(b"", _FIELD, [head.encode(), outcome.data])


def unpack(data: bytes) -> Outcome:
    """Reads what `pack` gave."""
    head, answer = _entries(data)
    code, text, retry_after_ms, labels = json.loads(bytes(head))
    return Outcome(bytes(answer), grpc.StatusCode[code], text, retry_after_ms, tuple(labels))


def pack_all(outcomes: Sequence[Outcome]) -> bytes:
    """Gives the bytes that `unpack_all` reads."""
    return wire.join(b"", _FIELD, [pack(outcome) for outcome in outcomes])


def unpack_all(data: bytes) -> list[Outcome]:
    """Reads what `pack_all` gave."""
    return [unpack(bytes(entry)) for entry in _entries(data)]


def _entries(data: bytes) -> Sequence[Buffer]:
    entries = wire.split(data, _FIELD, small=0)[1]
    if entries is None:
        raise ValueError(f"{len(data)} bytes that are no outcome")
    return entries
