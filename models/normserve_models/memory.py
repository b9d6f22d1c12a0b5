"""Memory that is free and yet held.

A graph is full of cycles, so that what one holds is freed by the next collection and not before; and the C library keeps
what it was given back, to give it out again in pieces. With files of hundreds of megabytes, a step has to begin without
what the last one left.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of glibc's malloc.h: from which size on a block is mapped by itself, and how much may lie free at the end of the heap.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE_BLOCK, LARGEST_BLOCK = 1 << 20, 1 << 25  # the second is what glibc comes to by itself


def settle() -> None:
    """Let collections pass over all that is there by now, modules above all, which takes 50 ms off each.

    For programs, once they have imported what they need.
    """
    gc.collect()
    gc.freeze()


def make_room() -> None:
    """Free what nothing refers to any more, and hand it back to the system where the C library can do that."""
    gc.collect()
    _ask_malloc("malloc_trim", 0)


@contextmanager
def blocks_apart() -> Iterator[None]:
    """Map each large block that is allocated in here by itself, so that it goes back to the system when it is freed.

    It costs the system more, so it is for what holds on to weights and not for what computes.
    """
    _ask_malloc("mallopt", M_MMAP_THRESHOLD, LARGE_BLOCK)
    try:
        yield
    finally:
        _ask_malloc("mallopt", M_MMAP_THRESHOLD, LARGEST_BLOCK)
        _ask_malloc("mallopt", M_TRIM_THRESHOLD, 2 * LARGEST_BLOCK)


def _ask_malloc(function: str, *arguments: int) -> None:
    with suppress(OSError, TypeError, AttributeError):  # musl and macOS lack these, and Windows has no CDLL(None)
        getattr(ctypes.CDLL(None), function)(*arguments)
