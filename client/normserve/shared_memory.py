"""Inference through shared memory, as steps for both clients: each yields a call, and is sent its answer or thrown its error.

Big inputs are put into a slot that the server has open, and big outputs are fetched from there. How much room an output takes
is what it took last time, so the first answer of its kind comes through the connection. A slot is used again only after an
answer: a call that failed or was given up may still be running at the server, and write.

Outputs go to a slot by name, so a request whose caller wants all of them names those of the last answer. A model that was
loaded anew may have others: another version says so in its answer, and of the same one the names are asked for now and then.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import Array

from normserve import requests
from normserve.errors import (
    CallCancelledError,
    DeadlineExceededError,
    InvalidArgumentError,
    NormserveError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from normserve.placement import Answer, Arrangement, through_message
from normserve.requests import Inference, Steps
from normserve.slots import Pool, Slot

T = TypeVar("T")

MOST_KINDS = 256
MOST_NAMED = 63  # requests in a row that name the outputs for a caller who wants all of them
CLOSING_SECONDS = 1.0  # for taking leave of a server that may be gone
# They say nothing about shared memory: the inference itself will be told the same.
_PASSING = (UnavailableError, ResourceExhaustedError, DeadlineExceededError, CallCancelledError)


class SharedMemoryWarning(UserWarning):
    """Shared memory was asked for and cannot be used; tensors go through the connection."""


class _UnusableError(Exception):
    """Shared memory cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Known:
    """What answers to requests of a kind are like.

    Attributes:
        version: the last one's.
        sizes: the most bytes that each output took.
        named: requests in a row that named the outputs for their callers.
    """

    version: str
    sizes: Mapping[str, int]
    named: int


class SharedMemory:
    """What a client knows about shared memory; any thread may use it."""

    def __init__(self) -> None:
        self._pool = Pool()
        self._known: dict[object, Known] = {}
        self._off = False

    def infer(self, request: Inference) -> Steps[dict[str, Array]]:
        """Runs a model, through shared memory where that works and is worth it."""
        everything = self._known  # what is forgotten while the call runs stays forgotten
        kind = _kind(request.message)
        known = everything.get(kind)
        if known and known.named >= MOST_NAMED:
            known = yield from _confirmed(known, request.message)
        arrangement = Arrangement.of(request, known.sizes if known else {})
        named = arrangement.receives and not request.message.outputs
        answer: Answer | None = None
        try:
            if not self._off:
                answer = yield from self._through_slots(request, arrangement)
        except _UnusableError as error:
            self._off = True
            text = f"shared memory is not used, tensors go through the connection: {error}"
            warnings.warn(text, SharedMemoryWarning, stacklevel=4)  # where the client's `infer` is called
        if answer is None or (known and known.version != answer.version and named):
            # Also where a new version has answered: it may have outputs that were not asked for.
            answer = yield through_message(request)
            named = False
        _remember(everything, kind, answer, known, named=named)
        return answer.outputs

    def forget(self) -> None:
        """Forgets what answers are like, because a model may have been loaded anew."""
        self._known = {}

    def close(self) -> Steps[None]:
        """Takes leave of the server."""
        self._off = True
        try:
            for name in self._pool.empty():
                yield requests.unregister(name)
        except NormserveError:
            return  # if there still is a server, it finds the leases ended

    def _through_slots(self, request: Inference, arrangement: Arrangement) -> Steps[Answer | None]:
        """Gives None where the inference has to go through the connection."""
        for _ in range(2):  # again for a server that has been started again, and knows nothing of the slot
            slot = self._taken(arrangement.byte_size)
            if slot is None:
                return None
            try:
                return (yield from self._through(slot, request, arrangement))
            except NotFoundError as error:
                if slot.name not in error.message:
                    raise
        raise _UnusableError("the server forgets what was registered")

    def _taken(self, byte_size: int) -> Slot | None:
        try:
            return self._pool.take(byte_size) if byte_size else None
        except OSError as error:
            raise _UnusableError(f"no shared memory of {byte_size} bytes here: {error.strerror}") from None

    def _through(self, slot: Slot, request: Inference, arrangement: Arrangement) -> Steps[Answer | None]:
        answer: Answer | None = None
        try:
            if slot.registered or (yield from self._registered(slot)):
                answer = yield arrangement.call(request, slot)
        except InvalidArgumentError:  # perhaps an output takes more room than last time
            if not arrangement.receives:
                raise
        finally:
            if answer is None:
                self._pool.drop(slot)
        return answer and self._settled(answer, slot)

    def _settled(self, answer: Answer, slot: Slot) -> Answer:
        """Leaves the slot to an answer that views it, unless too many do; else gives it back."""
        if answer.memory is not None:
            if self._pool.lend(slot, answer.memory):
                return answer
            answer = answer.copied()
        self._pool.give_back(slot)
        return answer

    def _registered(self, slot: Slot) -> Steps[bool]:
        try:
            yield from self._tidied()
            yield requests.register(slot.name, slot.key, slot.byte_size)
        except _PASSING:
            return False
        except NormserveError as error:
            raise _UnusableError(f"the server says: {error.message}") from None
        finally:
            slot.hide()
        slot.registered = True
        return True

    def _tidied(self) -> Steps[None]:
        for name in self._pool.dropped():
            try:
                yield requests.unregister(name)
            except NormserveError:  # the lease has ended anyway
                continue


def _confirmed(known: Known, message: pb.ModelInferRequest) -> Steps[Known | None]:
    """Asks whether the outputs still have the names that they had; gives None where they have others."""
    try:
        metadata = yield requests.model_metadata(message.model_name, message.model_version)
    except NormserveError:  # the inference itself will be told what is wrong
        return None
    return replace(known, named=0) if {output.name for output in metadata.outputs} == known.sizes.keys() else None


def _remember(everything: dict[object, Known], kind: object, answer: Answer, before: Known | None, *, named: bool) -> None:
    if len(everything) >= MOST_KINDS:  # shapes that are never the same, say
        everything.clear()
    least = before.sizes if before else {}  # where sizes vary, room for the largest so far
    sizes = {name: max(size, least.get(name, 0)) for name, size in answer.sizes().items()}
    everything[kind] = Known(answer.version, sizes, before.named + 1 if before and named else 0)


def _kind(message: pb.ModelInferRequest) -> object:
    """What requests have in common whose answers are probably alike."""
    inputs = tuple((tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in message.inputs)
    return message.model_name, message.model_version, inputs, tuple(output.name for output in message.outputs)
