"""What a proof knows of each channel of an output: how far the files are off there, and how large it is.

An error relative to the largest value of a whole output says nothing about a channel whose values are small beside it: a
channel of ones beside one of millions could be all wrong. So each channel is also judged relative to its own largest value,
against max(floor, 10 x what the unfolded file is off there), with floors far above rounding (`FLOORS`). They can be that
wide because a wrong scale or shift makes a channel wrong by about its own size, and they have to be: behind a ReLU a channel
may be 0 but for a few small remainders of much larger numbers, whose rounding is then large beside them. Of thousands of
channels some are such, and in some the unfolded file is exact by luck. Of 261 right folds
of drawn networks with 1000 channels in float32, ten missed a bound of max(1e-5, 4 x unfolded), and one by 8e-4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from normserve_models.reference import widened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normserve_models.kernels import Array

CHANNEL_AXIS = 1
FLOORS = {
    ir.DataType.DOUBLE: 1e-8,
    ir.DataType.FLOAT: 1e-2,
    ir.DataType.FLOAT16: 0.5,
    ir.DataType.BFLOAT16: 0.5,
}
# The smallest normal numbers: below them a type has fewer digits.
SMALLEST = {
    ir.DataType.DOUBLE: float(np.finfo(np.float64).tiny),
    ir.DataType.FLOAT: float(np.finfo(np.float32).tiny),
    ir.DataType.FLOAT16: float(np.finfo(np.float16).tiny),
    ir.DataType.BFLOAT16: float(np.finfo(np.float32).tiny),  # it has float32's exponents
}
SLACK = 10.0


def has_channels(wanted: Array) -> bool:
    """Tell whether a reference is of floats and has an axis of channels."""
    return wanted.ndim > CHANNEL_AXIS and wanted.dtype == np.float64


@dataclass(frozen=True)
class Miss:
    """A channel that is off by more than its bound, all relative to the channel's largest reference."""

    channel: int
    folded: float
    unfolded: float
    bound: float


class Channels:
    """The largest |y - r| of both files and the largest |r|, in each channel of an output, over all batches.

    The figures of the batches are taken together before they are divided: a batch in which a channel happens to be nearly 0, as
    behind a ReLU, would otherwise make the rounding of larger numbers look like a large error.

    Args:
        count: How many channels there are.
        smallest: What no channel counts as smaller than: see `SMALLEST`.
    """

    def __init__(self, count: int, smallest: float) -> None:
        self._scale = np.full(count, smallest)
        self._off = {"folded": np.zeros(count), "unfolded": np.zeros(count)}

    def look_at(self, which: str, got: Array, wanted: Array) -> None:
        """Take in what a file gave, and the reference, of the same shape."""
        finite = np.isfinite(wanted)
        reference = np.where(finite, wanted, 0.0)
        off = np.abs(np.where(finite, widened(got), 0.0) - reference)
        self._off[which] = np.maximum(self._off[which], _largest(np.where(np.isnan(off), np.inf, off)))
        self._scale = np.maximum(self._scale, _largest(np.abs(reference)))

    def misses(self, floor: float) -> Iterator[Miss]:
        """Yield the channels that are off by more than their bound.

        Args:
            floor: What any channel may be off.
        """
        with np.errstate(over="ignore"):  # infinite is what it then is
            folded, unfolded = (self._off[which] / self._scale for which in ("folded", "unfolded"))
        bound = np.maximum(floor, SLACK * unfolded)
        for channel in np.flatnonzero(folded > bound):
            yield Miss(int(channel), float(folded[channel]), float(unfolded[channel]), float(bound[channel]))


def _largest(values: Array) -> Array:
    others = tuple(axis for axis in range(values.ndim) if axis != CHANNEL_AXIS)
    return np.asarray(values.max(axis=others, initial=0.0))
