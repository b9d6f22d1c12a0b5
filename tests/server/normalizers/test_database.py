"""The database when it is not as it should be, and what is kept of it."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from normalizer_service import Service
from normserve_proto import normalizers_pb2 as pb
from normserve_server.errors import OverloadedError, StateError, StateFullError
from normserve_server.normalizers import tables
from normserve_server.normalizers.database import Database
from normserve_server.normalizers.store import Store
from normserve_server.workers import Worker

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

X = np.ones((4, 2), np.float32)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_on_a_full_disk_calls_are_refused_and_the_state_is_as_it_was(small_disk: Path) -> None:
    service = Service(str(small_disk / "state.db"))
    await service.create()
    assert await service.observe(X) == 1
    before = await service("GetStateDict", name="normalizers/obs")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    refused = await asyncio.gather(
        *(service.create(f"n{number}", running_norm=pb.RunningNormLayer(shape=[5000])) for number in range(3)),
        service.observe(X),
        return_exceptions=True,
    )
    assert {type(one) for one in refused} == {StateFullError}, refused
    assert "it cannot be read or written now" in str(refused[0])
    assert await service("GetStateDict", name="normalizers/obs") == before
    ballast.unlink()
    assert await service.observe(X) == 2
    assert len((await service("ListNormalizers")).normalizers) == 1
    await service.close()


async def test_a_locked_or_broken_database_is_told_of_and_the_service_goes_on(
    services: Callable[[], Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normserve_server.normalizers.engines.BUSY_SECONDS", 0.01)
    service = services()
    await service.create()
    with contextlib.closing(sqlite3.connect(tmp_path / "folder/state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateError, match="database is locked"):
            await service.observe(X)
        assert (await service("GetNormalizer", name="normalizers/obs")).sequence == 0
    assert await service.observe(X) == 1


async def test_tables_of_another_version_are_left_alone(tmp_path: Path, services: Callable[[], Service]) -> None:
    await services().create()
    with contextlib.closing(sqlite3.connect(tmp_path / "folder/state.db", isolation_level=None)) as other:
        other.execute(f"UPDATE {tables.schema.name} SET version = 7")
    with pytest.raises(StateError, match="its tables are version 7, and this server knows version 1"):
        await services().create()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs a place that cannot be written")
@pytest.mark.parametrize("place", ["/proc/none/state.db", "postgresql://u:secret@127.0.0.1:1/none", "postgresql://["])
async def test_a_place_that_cannot_be_is_told_of_without_its_password(place: str) -> None:
    with pytest.raises(StateError, match="state: ") as error:
        Database(place).open()
    assert "secret" not in str(error.value)


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    file.write_text("something else, and quite a bit of it, which is somebody's" * 100)
    before = file.read_bytes()
    with pytest.raises(StateError, match="file is not a database"):
        Database(str(file)).open()
    assert file.read_bytes() == before


async def test_so_many_answers_are_kept(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "KEPT_ANSWERS", 20)
    await service.create()
    for number in range(64):
        await service.observe(X, request_id=str(number))
    with contextlib.closing(sqlite3.connect(tmp_path / "folder/state.db")) as other:
        (kept,) = other.execute(f"SELECT count(*) FROM {tables.answers.name}").fetchone()
    assert 20 <= kept <= 20 + 16
    assert await service.observe(X, request_id="63") == 64
    assert await service.observe(X, request_id="0") == 65


async def test_commits_are_flushed_and_the_file_is_the_users_alone(service: Service, tmp_path: Path) -> None:
    await service.create()
    folder = tmp_path / "folder"
    assert folder.stat().st_mode & 0o777 == 0o700
    backend = service.store._database.open()
    with backend.begin([], writes=False) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


async def test_a_call_that_comes_when_too_many_wait_is_refused_at_once(service: Service) -> None:
    await service.create()
    store = Store(service.store._database, Worker("normalizers"), service.store._metrics, 2)
    try:
        operation = service.servicer
        store._waiting = [(None, asyncio.get_running_loop().create_future()) for _ in range(2)]
        with pytest.raises(OverloadedError, match="2 calls wait for the normalizers' state already"):
            await store.run(operation)
    finally:
        await store._worker.close()


async def test_a_caller_who_left_before_the_group_began_changes_nothing(service: Service) -> None:
    await service.create()
    calls = [asyncio.ensure_future(service.observe(X)) for _ in range(3)]
    await asyncio.sleep(0)
    calls[2].cancel()
    assert (await asyncio.gather(*calls, return_exceptions=True))[:2] == [1, 2]
    assert (await service("GetNormalizer", name="normalizers/obs")).sequence == 2
