import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from normserve_server.file_lock import locked

HOLDER = """
import asyncio, sys
from pathlib import Path
from normserve_server.file_lock import locked
async def main():
    async with locked(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
asyncio.run(main())
"""


@pytest.mark.parametrize("killed", [False, True])
async def test_a_lock_is_held_by_one_process_and_goes_with_it(tmp_path: Path, killed: bool) -> None:
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:  # noqa: ASYNC220
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), locked(path):
                pass
        if killed:
            holder.kill()
        else:
            holder.communicate()
        async with asyncio.timeout(10), locked(path):
            pass
    assert not path.exists()


async def test_one_after_another_in_one_process_too(tmp_path: Path) -> None:
    inside, most = 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with locked(tmp_path / ".lock"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(work(), work(), work())
    assert most == 1


async def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with locked(tmp_path / "absent" / ".lock"):
            pass
