"""How many threads PyTorch computes on. It counts for the thread that says it, and for threads that have not computed yet."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def use_one_thread() -> int:
    """Has what the calling thread computes from now on computed by no other thread.

    That is for small tensors: PyTorch hands even the smallest out, and waking a thread takes longer than all the work (16 KB,
    batch_norm: 150 us and 20 us).

    Returns:
        The number of threads that it was computed by, which other threads should be given back: see `warm_up`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


def on_one_thread(compute: Callable[[], T]) -> T:
    """Has one thing computed so, and then as before."""
    if torch.get_num_threads() == 1:
        return compute()
    before = use_one_thread()
    try:
        return compute()
    finally:
        torch.set_num_threads(before)
