"""What calls do to normalizers, each as an `Operation` for a transaction."""

import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

from normserve_proto import normalizers_pb2 as pb

from normserve_server.errors import AlreadyExistsError, ConflictError
from normserve_server.normalizers import messages
from normserve_server.normalizers.database import Operation
from normserve_server.normalizers.layer import Layer, State
from normserve_server.normalizers.records import Record, packed
from normserve_server.normalizers.transaction import Answer, Transaction

APPLY = "ApplyNormalizer"


class StaleError(Exception):
    """The normalizer is another one than that for which the statistics were computed: it was deleted and made anew."""


class Updated(NamedTuple):
    """What an update gives.

    Attributes:
        record: the normalizer after it, or at present where the update was made by an earlier call of the same request id.
        sequence: the normalizer's after the update.
        made: whether this call made it.
    """

    record: Record
    sequence: int
    made: bool = False


def key(id_: str, request_id: str) -> str:
    """Under which a call's answer is kept, in ASCII, as any database has it; empty where it gave no request id."""
    return f"{id_}/{request_id.encode('unicode_escape').decode()}" if request_id else ""


def create(id_: str, layer: Layer, state: State | None, key: str, *, training: bool) -> Operation:
    """Makes a normalizer; `state` is None for a new layer's. Gives its message."""

    def run(transaction: Transaction) -> pb.Normalizer:
        answer = transaction.answered(key, "CreateNormalizer")
        if answer is not None:
            return pb.Normalizer.FromString(answer.message or b"")
        record = transaction.get(id_)
        if record is None:
            moment = transaction.moment
            record = Record(id_, layer, training, state or layer.initial(), secrets.token_hex(8), moment, moment)
        else:
            _check_same(record, layer, state)
        return _answered(transaction, record, key, "CreateNormalizer")

    return Operation(run, (id_,), key)


def get(id_: str) -> Operation:
    """Gives a normalizer's record."""
    return Operation(lambda transaction: transaction.existing(id_), (id_,), writes=False)


def page(after: str, count: int) -> Operation:
    """Gives the records of the next ids, without their states."""
    return Operation(lambda transaction: transaction.page(after, count), writes=False)


def change(id_: str, etag: str, changed: Callable[[Record], tuple[Layer, bool]]) -> Operation:
    """Changes a normalizer's numbers and mode to what `changed` gives. Gives its message."""

    def run(transaction: Transaction) -> pb.Normalizer:
        record = _expected(transaction.existing(id_), etag)
        layer, training = changed(record)
        record = record.changed(layer, layer.adopted(record.state), transaction.moment, training=training)
        return _answered(transaction, record)

    return Operation(run, (id_,))


def delete(id_: str, etag: str, *, allow_missing: bool) -> Operation:
    """Deletes a normalizer, and what was answered under its request ids."""

    def run(transaction: Transaction) -> None:
        if allow_missing and transaction.get(id_) is None:
            return
        _expected(transaction.existing(id_), etag)
        transaction.remove(id_)

    return Operation(run, (id_,))


def update(id_: str, statistics: Callable[[Record], Any], method: str, key: str) -> Operation:
    """Merges an input's statistics, as `statistics` gives them for the normalizer. Gives `Updated`.

    Applying a layer that has no running statistics changes nothing.
    """

    def run(transaction: Transaction) -> Updated:
        record = transaction.existing(id_)
        answer = transaction.answered(key, method)
        if answer is not None:
            return Updated(record, answer.sequence)
        if method == APPLY and not record.layer.updates:
            return Updated(record, record.sequence)
        record = record.observed(record.layer.merged(record.state, statistics(record)), transaction.moment)
        transaction.put(record)
        transaction.remember(key, Answer(method, record.sequence))
        return Updated(record, record.sequence, made=True)

    return Operation(run, (id_,), key)


def computed(uid: str, statistics: Any) -> Callable[[Record], Any]:
    """Gives `update` the statistics that were computed before, for the normalizer `uid`; it raises StaleError for another."""

    def given(record: Record) -> Any:
        if record.uid != uid:
            raise StaleError
        return statistics

    return given


def load(id_: str, etag: str, tensors: State, version: int, key: str) -> Operation:
    """Puts another state in place of the present one. Gives the normalizer's message."""

    def run(transaction: Transaction) -> pb.Normalizer:
        answer = transaction.answered(key, "LoadStateDict")
        if answer is not None:
            return pb.Normalizer.FromString(answer.message or b"")
        record = _expected(transaction.existing(id_), etag)
        state = record.layer.loaded(tensors, version, record.state)
        record = record.changed(record.layer, state, transaction.moment, training=record.training)
        return _answered(transaction, record, key, "LoadStateDict")

    return Operation(run, (id_,), key)


def _answered(transaction: Transaction, record: Record, key: str = "", method: str = "") -> pb.Normalizer:
    message = messages.normalizer(record)
    if transaction.get(record.id) is not record:
        transaction.put(record)
    transaction.remember(key, Answer(method, record.sequence, message.SerializeToString()))
    return message


def _expected(record: Record, etag: str) -> Record:
    if etag and etag != record.etag:
        raise ConflictError(f"{messages.COLLECTION}{record.id} has etag '{record.etag}' now, the call expects '{etag}'")
    return record


def _check_same(record: Record, layer: Layer, state: State | None) -> None:
    name = f"{messages.COLLECTION}{record.id}"
    if record.layer != layer:
        raise AlreadyExistsError(f"there is {name} already, with another layer: {_text(record.layer)}, not {_text(layer)}")
    if state is not None and packed(state, layer.layout()) != packed(record.state, layer.layout()):
        raise AlreadyExistsError(f"there is {name} already, with another state than the snapshot's")


def _text(layer: Layer) -> str:
    return " ".join(str(messages.layer_message(layer)).split())
