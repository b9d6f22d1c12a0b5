"""Which tensors are computed where they are, because it takes less time than handing them to a thread."""

import math

from normserve_proto.tensors import Array

INLINE_BYTES = 32 * 1024  # on this much an operator holds the loop for 10 to 21 us (two cores, torch 2.13)


def is_small(x: Array) -> bool:
    """Whether a tensor is one of these.

    One without elements is small in bytes only: operators make room for each of the rows that it claims to have.
    """
    if x.nbytes >= INLINE_BYTES:
        return False
    return x.size > 0 or math.prod(extent for extent in x.shape if extent) < INLINE_BYTES


def depends_on_threads(x: Array) -> bool:
    """Whether the last digits of PyTorch's batch norm in training depend on its number of threads.

    They do where each channel of a sample has one element. More of them are summed up by one thread, channel by channel.
    """
    return x.ndim < 3 or x.size == x.shape[0] * x.shape[1]
