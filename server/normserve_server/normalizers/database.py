"""How a group of operations gets into the database together.

A group is one transaction: every operation sees what those before it did, and nobody is answered before the commit, which is on
the disk when it returns.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from normserve_server.errors import StateError, StateFullError
from normserve_server.normalizers import engines, tables
from normserve_server.normalizers.engines import Backend
from normserve_server.normalizers.transaction import Transaction

TRIM_GROUPS = 16  # between two deletions of old answers
SCHEMA_LOCK = "/"  # no normalizer's id
DISK_FULL = "53100"  # PostgreSQL's
FAILURES = (SQLAlchemyError, sqlite3.Error, OSError)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Operation:
    """Something to be done to normalizers.

    Attributes:
        run: does it; what it returns is the outcome. It reads all that it needs before it stages anything.
        ids: of the normalizers that it may read or change.
        key: under which it may have been answered before; empty for none.
        writes: whether it may change something.
    """

    run: Callable[[Transaction], Any]
    ids: tuple[str, ...] = ()
    key: str = ""
    writes: bool = True


class Database:
    """All normalizers of the services that share it. One thread at a time may use this object.

    Args:
        state: a file's path, or a postgresql:// URL.
    """

    def __init__(self, state: str) -> None:
        self._state = state
        self._backend: Backend | None = None
        self._groups = 0

    def open(self) -> Backend:
        """Connects, and makes the tables where there are none; does nothing where that has been done.

        Raises:
            StateError: that is not possible, or the tables are another version's.
        """
        if self._backend is None:
            try:
                self._backend = _opened(self._state)
            except FAILURES as error:
                raise _refusal(error) from error
        return self._backend

    def close(self) -> None:
        """Disconnects."""
        if self._backend is not None:
            self._backend.close()

    def carry_out(self, operations: Sequence[Operation]) -> list[Any]:
        """Does them in order in one transaction.

        Returns:
            What each returned, or the exception that it raised; where the transaction failed, and nothing was done, its error
            for each.
        """
        try:
            return self._transact(self.open(), operations)
        except (StateError, *FAILURES) as error:
            refusals = [_refusal(error) for _ in operations]
            _log.error("the normalizers' state fails", reason=str(refusals[0]))
            return refusals

    def _transact(self, backend: Backend, operations: Sequence[Operation]) -> list[Any]:
        writes = any(operation.writes for operation in operations)
        written = {id_ for operation in operations if operation.writes for id_ in operation.ids}
        with backend.begin(written, writes=writes) as connection:
            transaction = Transaction(connection)
            keys = {operation.key for operation in operations if operation.key}
            transaction.read({id_ for operation in operations for id_ in operation.ids}, keys)
            outcomes = [_attempt(operation, transaction) for operation in operations]
            transaction.write()
            self._groups += writes
            if writes and self._groups % TRIM_GROUPS == 0:
                transaction.trim()
        return outcomes


def _opened(state: str) -> Backend:
    backend = engines.backend(state)
    try:
        _prepare(backend)
    except BaseException:
        backend.close()
        raise
    return backend


def _prepare(backend: Backend) -> None:
    with backend.begin([SCHEMA_LOCK], writes=True) as connection:
        tables.metadata.create_all(connection)
        version = connection.scalar(select(tables.schema.c.version))
        if version is None:
            connection.execute(insert(tables.schema), {"version": tables.SCHEMA})
    if version not in (None, tables.SCHEMA):
        raise StateError(f"state: its tables are version {version}, and this server knows version {tables.SCHEMA}")


def _attempt(operation: Operation, transaction: Transaction) -> Any:
    try:
        return operation.run(transaction)
    except FAILURES:
        raise
    except Exception as error:  # noqa: BLE001 - it is the caller's, and the others go on
        return error


def _refusal(error: Exception) -> StateError:
    if isinstance(error, StateError):
        return StateError(str(error))
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    reason = str(cause).strip().partition("\n")[0]
    full = getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or getattr(cause, "sqlstate", None) == DISK_FULL
    kind = StateFullError if full else StateError
    return kind(f"state: it cannot be read or written now: {reason}")
