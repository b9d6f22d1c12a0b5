"""What becomes of freed memory: kept while calls come, given back when a model has gone. For glibc; others do as they do."""

import ctypes
import gc
from typing import Any

# glibc's mallopt, https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
MOST_KEPT_BYTES = 128 * 2**20
_LARGEST_KEPT_BYTES = 32 * 2**20  # the most that mallopt takes


def keep_freed() -> None:
    """Has freed memory kept for the next call, up to `MOST_KEPT_BYTES`, instead of being given back to the system at once.

    Fresh memory costs a page fault for every 4 KiB: 1 MiB in and out took 394 of them a call, and 0 since (16 callers: 266 and
    9; a third of the CPU time).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, MOST_KEPT_BYTES)
        mallopt(_TOP_PAD, _LARGEST_KEPT_BYTES // 2)


def give_back(held: list[Any]) -> None:
    """Lets go of what `held` holds, and returns to the system what that frees.

    Call it on a thread: a session of gigabytes takes its time to go.

    Args:
        held: the last references; empty afterwards.
    """
    held.clear()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's: it keeps freed memory unless it is asked
    if trim is not None:
        trim(0)
