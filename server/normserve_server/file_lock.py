"""A lock that processes of one machine share, by a file that is there only while somebody holds or wants it."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

POLL_SECONDS = 0.1


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Holds the lock; the system takes it back from a process that dies.

    Args:
        path: the lock's file; its folder is made if need be.

    Raises:
        OSError: the file cannot be made or locked.
    """
    while (descriptor := _take(path)) is None:  # noqa: ASYNC110 - nothing tells of another process
        await asyncio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        _release(path, descriptor)


def _take(path: Path) -> int | None:
    """Gives the locked file's descriptor; None while another has it, or where that one has just deleted it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _release(path: Path, descriptor: int) -> None:
    path.unlink(missing_ok=True)  # first: whoever opened it and waits must see that it is no lock any more
    os.close(descriptor)
