"""A real PostgreSQL from the distribution's package, as a process of a user who is not root, which it refuses to be."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
from normserve.testing import free_port

FOLDERS = Path("/usr/lib/postgresql")
WHY_NOT = "PostgreSQL's programs are not in /usr/lib/postgresql/*/bin; the distribution's package postgresql has them"


@dataclass(frozen=True)
class Postgresql:
    """A running server.

    Attributes:
        port: on 127.0.0.1.
        user: who may do everything.
    """

    port: int
    user: str

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def database(self, encoding: str = "UTF8") -> str:
        """Makes a database and gives its URL."""
        name = f"d{uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
        return self.url(name)

    def end_connections(self) -> None:
        """As a restart of the server does."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


def programs() -> Path | None:
    """Where they are; None where they are not."""
    found = sorted(FOLDERS.glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgresql() -> Iterator[Postgresql]:
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    who = {"user": user} if os.geteuid() == 0 else {}
    options = {"cwd": folder, "stdout": subprocess.DEVNULL, **who}
    port = free_port("127.0.0.1")
    data = folder / "data"
    try:
        initdb = [programs() / "initdb", "-D", data, "-U", user, "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, **options)
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c shared_buffers=16MB"
        control = [programs() / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
        subprocess.run([*control, "-o", settings, "start"], check=True, **options)
        try:
            yield Postgresql(port, user)
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, **options)
    finally:
        shutil.rmtree(folder)


def _user() -> str:
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
