"""One transaction that many operations share: rows are read once, changed in memory, and written once.

An operation changes what is staged only when nothing more can fail, so one that fails leaves no trace among the others.
"""

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from normserve_proto import normalizers_pb2 as pb
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.engine import Row

from normserve_server.errors import InvalidRequestError, NotFoundError
from normserve_server.normalizers import messages, tables
from normserve_server.normalizers.layer import State
from normserve_server.normalizers.records import Record, packed, unpacked
from normserve_server.normalizers.tables import answers, normalizers

MOST_KEYS = 500  # in one query
AFTER_SLASH = chr(ord("/") + 1)  # what begins with an id and a slash lies between the id and a slash, and the id and this


class Answer(NamedTuple):
    """What was answered under a request id.

    Attributes:
        method: the RPC.
        sequence: the normalizer's then.
        message: the answer, where the sequence does not say all.
    """

    method: str
    sequence: int
    message: bytes | None = None


class Transaction:
    """What operations work on.

    Args:
        connection: within a transaction, which whoever opened it ends.

    Attributes:
        moment: of all changes, in microseconds since 1970.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[str, Record | None] = {}
        self._staged: dict[str, Record | None] = {}
        self._answers: dict[str, Answer] = {}
        self._new_answers: list[dict[str, Any]] = []
        self._forgotten: list[str] = []
        self.moment = time.time_ns() // 1000

    def read(self, ids: Iterable[str], keys: Iterable[str]) -> None:
        """Reads all rows that operations are going to need."""
        wanted = sorted(set(ids))
        self._found = dict.fromkeys(wanted)
        for part in _parts(wanted):
            rows = self._connection.execute(_FIND, {"ids": part})
            self._found.update((row.id, _record(row)) for row in rows)
        for part in _parts(sorted(set(keys))):
            rows = self._connection.execute(_FIND_ANSWERS, {"keys": part})
            self._answers.update((row.key, Answer(row.method, row.sequence, row.answer)) for row in rows)

    def get(self, id: str) -> Record | None:  # noqa: A002 - the field's name
        """The normalizer as it is now, with what was staged; only what was read is there."""
        return self._staged[id] if id in self._staged else self._found[id]

    def existing(self, id: str) -> Record:  # noqa: A002
        """Likewise.

        Raises:
            NotFoundError: there is none.
        """
        record = self.get(id)
        if record is None:
            raise NotFoundError(f"there is no normalizer '{messages.COLLECTION}{id}'")
        return record

    def put(self, record: Record) -> None:
        """Stages a normalizer's new state, or a new normalizer."""
        self._staged[record.id] = record

    def remove(self, id: str) -> None:  # noqa: A002
        """Stages a normalizer's end, and that of its request ids' answers: who makes it anew may use them again."""
        self._staged[id] = None
        self._forgotten.append(id)
        prefix = f"{id}/"
        self._answers = {key: answer for key, answer in self._answers.items() if not key.startswith(prefix)}
        self._new_answers = [answer for answer in self._new_answers if not answer["key"].startswith(prefix)]

    def answered(self, key: str, method: str) -> Answer | None:
        """What was answered under this key; None where nothing is known of it.

        Raises:
            InvalidRequestError: another method was.
        """
        answer = self._answers.get(key) if key else None
        if answer is not None and answer.method != method:
            raise InvalidRequestError(f"request_id: a call of {answer.method} had the same one")
        return answer

    def remember(self, key: str, answer: Answer) -> None:
        """Stages an answer; nothing where the call has no key."""
        if key:
            self._answers[key] = answer
            self._new_answers.append(
                {"key": key, "method": answer.method, "sequence": answer.sequence, "answer": answer.message}
            )

    def page(self, after: str, count: int) -> list[Record]:
        """The normalizers with the next ids, without their states, which may be big."""
        self.write()
        query = select(*_WITHOUT_STATE).where(normalizers.c.id > after).order_by(normalizers.c.id).limit(count)
        return [_record(row, {}) for row in self._connection.execute(query)]

    def write(self) -> None:
        """Writes what is staged; the transaction's end makes it last."""
        gone, changed, new = [], [], []
        for id_, record in self._staged.items():
            if record is None:
                gone.append({"key": id_})
            elif self._found.get(id_) is None:
                new.append(_row(record))
            else:
                changed.append({"key": id_} | {f"new_{name}": value for name, value in _row(record).items()})
        forgotten = [{"first": f"{id_}/", "end": f"{id_}{AFTER_SLASH}"} for id_ in self._forgotten]
        statements = (
            (_DELETE, gone),
            (_UPDATE, changed),
            (_INSERT, new),
            (_FORGET, forgotten),
            (_INSERT_ANSWERS, self._new_answers),
        )
        for statement, rows in statements:
            if rows:
                self._connection.execute(statement, rows)
        self._found |= self._staged
        self._staged, self._new_answers, self._forgotten = {}, [], []

    def trim(self) -> None:
        """Deletes answers beyond those that are kept."""
        newest = self._connection.scalar(select(func.max(answers.c.position))) or 0
        old = select(answers.c.position).where(answers.c.position <= newest - tables.KEPT_ANSWERS)
        self._connection.execute(delete(answers).where(answers.c.position.in_(old.with_for_update(skip_locked=True))))


_FIND = select(normalizers).where(normalizers.c.id.in_(bindparam("ids", expanding=True)))
_WITHOUT_STATE = [column for column in normalizers.c if column is not normalizers.c.state]
_FIND_ANSWERS = select(answers).where(answers.c.key.in_(bindparam("keys", expanding=True)))
_FORGET = delete(answers).where(answers.c.key >= bindparam("first"), answers.c.key < bindparam("end"))
_INSERT, _INSERT_ANSWERS = insert(normalizers), insert(answers)
_DELETE = delete(normalizers).where(normalizers.c.id == bindparam("key"))
_UPDATE = (
    update(normalizers)
    .where(normalizers.c.id == bindparam("key"))
    .values({column.name: bindparam(f"new_{column.name}") for column in normalizers.c})
)


def _row(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "layer": messages.layer_message(record.layer).SerializeToString(),
        "training": record.training,
        "state": packed(record.state, record.layer.layout()),
        "uid": record.uid,
        "created": record.created,
        "updated": record.updated,
        "sequence": record.sequence,
        "revision": record.revision,
    }


def _record(row: Row[Any], state: State | None = None) -> Record:
    layer = messages.layer_of(pb.Normalizer.FromString(row.layer))
    state = unpacked(row.state, layer.layout()) if state is None else state
    return Record(row.id, layer, row.training, state, row.uid, row.created, row.updated, row.sequence, row.revision)


def _parts(items: list[str]) -> list[list[str]]:
    return [items[start : start + MOST_KEYS] for start in range(0, len(items), MOST_KEYS)]
