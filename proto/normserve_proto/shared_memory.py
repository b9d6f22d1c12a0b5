"""POSIX shared memory as this project's client and server both know it: where objects are, and leases on them.

A region of shared memory outlives the process that made it, unless somebody tidies up. A region whose name begins with `LEASED`
is its owner's for as long as the owner holds a lock on the object, which the kernel takes back however a process ends. Whoever
finds the lock free may forget the region, and `tidy` removes objects that are left. Other clients' regions have other
names, and last until they are unregistered.
"""

import contextlib
import os
import sys
from pathlib import Path

if sys.platform != "win32":  # where there is no shared memory of this kind either
    import fcntl

FOLDER = "/dev/shm"  # noqa: S108 - where Linux keeps POSIX shared memory objects
LEASED = "normserve-lease-"
_LONGEST_NAME = 255  # bytes; NAME_MAX
# What shm_open does: no links, nothing that a child process inherits, no waiting for the other end of a pipe.
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


def path_of(key: str) -> str:
    """Gives the path of a shared memory object.

    Args:
        key: its POSIX name, with or without the slash at the beginning.

    Raises:
        ValueError: no object can have that name.
    """
    name = key.removeprefix("/")
    if not name or name in {".", ".."} or "/" in name or "\0" in name or len(os.fsencode(name)) > _LONGEST_NAME:
        raise ValueError(f"a key is '/' and a file name without further slashes, got '{key}'")
    return f"{FOLDER}/{name}"


def open_object(key: str, *, create: bool = False) -> int:
    """Opens a shared memory object for reading and writing, and gives its file descriptor.

    Args:
        key: its POSIX name.
        create: make it, readable by this user only; there must be none of that name.

    Raises:
        ValueError: no object can have that name.
        OSError: it cannot be opened.
    """
    return os.open(path_of(key), _FLAGS | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)


def take_lease(descriptor: int) -> None:
    """Holds the object until the descriptor, and every copy of it, is closed."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def create_leased(key: str) -> int:
    """Makes an object and holds it; its file descriptor is to be kept for as long.

    Args:
        key: its POSIX name, which begins with `LEASED`.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        descriptor = open_object(key, create=True)
        try:
            take_lease(descriptor)
        except BaseException:
            os.close(descriptor)
            Path(path_of(key)).unlink(missing_ok=True)
            raise
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # somebody tidied up between the two


def tidy() -> None:
    """Removes this user's objects with leases that are over: what is left of a process that was killed as it made one."""
    for path in Path(FOLDER).glob(f"{LEASED}*"):
        with contextlib.suppress(OSError):
            _remove_if_over(path)


def _remove_if_over(path: Path) -> None:
    descriptor = open_object(path.name)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is removed, so that nobody begins to use it
            path.unlink()
    finally:
        os.close(descriptor)


def lease_is_over(descriptor: int) -> bool:
    """Whether nobody holds a lease on the object any more; `descriptor` is the asker's own."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True
