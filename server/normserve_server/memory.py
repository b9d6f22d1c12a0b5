"""Memory of models that are gone, back to the operating system."""

import ctypes
import gc
from typing import Any


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
