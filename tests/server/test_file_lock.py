"""A lock between processes that outlives none of them."""

import asyncio
import fcntl
import sys
from pathlib import Path

import pytest
from normserve_server import file_lock
from normserve_server.file_lock import locked

HOLD = """
import asyncio, pathlib, sys
from normserve_server.file_lock import locked
async def hold():
    async with locked(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        await asyncio.sleep(60)
asyncio.run(hold())
"""


async def test_one_at_a_time_and_nothing_stays(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "new" / "lock", 0, 0

    async def hold() -> None:
        nonlocal inside, most
        async with locked(path):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(hold() for _ in range(4)))
    assert most == 1
    assert not path.exists()


async def test_another_process_holds_it_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLD, str(path), stdout=asyncio.subprocess.PIPE)
    assert await holder.stdout.readline() == b"held\n"
    waiting = asyncio.create_task(_hold(path))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    holder.kill()
    await asyncio.wait_for(waiting, 10)
    await holder.wait()
    assert not path.exists()


async def _hold(path: Path) -> None:
    async with locked(path):
        pass


@pytest.mark.parametrize("another", [False, True])
def test_a_file_that_its_holder_has_just_deleted_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    path, flock = tmp_path / "lock", fcntl.flock

    def late(descriptor: int, how: int) -> None:
        path.unlink()
        if another:
            path.touch()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert file_lock._take(path) is None


async def test_whoever_stops_waiting_leaves_it_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    async with locked(path):
        waiting = asyncio.create_task(_hold(path))
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.wait_for(_hold(path), 10)
