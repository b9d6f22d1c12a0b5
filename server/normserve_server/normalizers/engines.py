"""SQLite and PostgreSQL, where they differ: how they are opened, and whose turn it is to write.

Of several processes on one database one at a time changes a normalizer. With SQLite a lock file gives the turn, because its own
lock is taken by polling, which starves those who wait; with PostgreSQL there is an advisory lock for each normalizer, and a
transaction takes its locks in order.
"""

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, cast

from sqlalchemy import Connection, create_engine, event, make_url, text

from normserve_server.errors import StateError

BUSY_SECONDS = 30.0  # for other programs that hold SQLite's lock
# After which PostgreSQL's machine is taken for gone, in seconds and, the second, ms; the URL may say others. The system's own
# are a quarter of an hour and more, in which no call would be answered.
LIMITS = {"connect_timeout": 10, "tcp_user_timeout": 30_000, "keepalives_idle": 30, "keepalives_interval": 10}


class Backend(Protocol):
    """A database."""

    def begin(self, ids: Iterable[str], *, writes: bool) -> AbstractContextManager[Connection]:
        """A transaction, which is committed at the end, or rolled back after an exception.

        Args:
            ids: what nobody else may change meanwhile.
            writes: whether anything is changed.
        """

    def close(self) -> None:
        """Disconnects."""


class Sqlite:
    """A file, in WAL mode; a commit is on the disk when it returns.

    Raises:
        OSError: the folder or the lock file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._turn = os.open(path.with_name(f"{path.name}-turn"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        arguments = {"timeout": BUSY_SECONDS, "check_same_thread": False}
        # Transactions begin and end below, by one statement each, for SQLAlchemy's way costs more than what is done in them.
        self._engine = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT", connect_args=arguments)
        event.listen(self._engine, "connect", _configure)
        self._connection: Connection | None = None

    @contextmanager
    def begin(self, ids: Iterable[str], *, writes: bool) -> Iterator[Connection]:
        """A transaction; see `Backend`."""
        if writes:
            fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            self._connection = self._connection or self._engine.connect()
            with _transaction(self._connection, writes=writes):
                yield self._connection
        finally:
            if writes:
                fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Disconnects."""
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()
        os.close(self._turn)


class Postgresql:
    """A database on a server.

    Raises:
        ArgumentError, StateError: the URL cannot be read.
    """

    def __init__(self, url: str) -> None:
        try:
            driver = make_url(url).set(drivername="postgresql+psycopg")
        except ValueError as error:  # of the port
            raise StateError(f"state: the URL cannot be read: {error}") from error
        # psycopg gives texts as bytes where the database's own encoding is SQL_ASCII.
        arguments = {"client_encoding": "utf8"} | {name: value for name, value in LIMITS.items() if name not in driver.query}
        self._engine = create_engine(driver, pool_size=1, max_overflow=0, pool_pre_ping=True, connect_args=arguments)

    @contextmanager
    def begin(self, ids: Iterable[str], *, writes: bool) -> Iterator[Connection]:
        """A transaction; see `Backend`."""
        with self._engine.connect() as connection, connection.begin():
            if writes:
                numbers = sorted({_number(id_) for id_ in ids})
                connection.execute(_LOCK, {"numbers": numbers})
            yield connection

    def close(self) -> None:
        """Disconnects."""
        self._engine.dispose()


def backend(state: str) -> Backend:
    """The database of the setting `state`: a file's path, or a URL."""
    return Postgresql(state) if "://" in state else Sqlite(Path(state))


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise StateError(f"state: SQLite needs its WAL mode, and the file's place allows only '{mode}'")
    connection.execute("PRAGMA synchronous=FULL")


@contextmanager
def _transaction(connection: Connection, *, writes: bool) -> Iterator[None]:
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    # Who may write says so first: a transaction that has read cannot begin to write after another has written.
    driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    try:
        yield
        driver.execute("COMMIT")
    finally:
        if driver.in_transaction:
            driver.execute("ROLLBACK")


_LOCK = text("SELECT pg_advisory_xact_lock(n) FROM unnest(CAST(:numbers AS bigint[])) AS n")


def _number(id_: str) -> int:
    return int.from_bytes(hashlib.blake2b(id_.encode(), digest_size=8).digest(), signed=True)
