"""What the machine gives this process."""

import contextlib
import os


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def raise_open_files() -> None:
    """Takes as many open files as the system gives: each connection is one, and the usual limit is for terminals."""
    try:
        import resource  # noqa: PLC0415 - there is none for Windows
    except ImportError:
        return
    with contextlib.suppress(OSError, ValueError):  # some systems do not give what they say
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
