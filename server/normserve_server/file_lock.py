"""A lock between processes, which the system lets go when its holder ends, however it ends."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

if sys.platform != "win32":  # which has another kind; there the same work is done twice
    import fcntl

POLL_SECONDS = 0.1


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Holds the lock for the length of an `async with`.

    Whoever waits asks again and again instead of standing in a thread, which nobody could call back when the server stops.

    Args:
        path: the lock's file; its folder has to be there. It is made, and taken away at the end.

    Raises:
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _taken(descriptor):  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - who waits has it open; who comes now makes another
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
