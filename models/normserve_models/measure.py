"""How far two files are off from a reference, and how far they may be.

The error of a value is max |y - r| / max |r| over a batch, r being the reference; of several batches the largest counts.
The folded file may be off by at most twice what the unfolded file is off, or by a floor that is the unit roundoff of the
coarsest float type in the file times a small factor, whichever is more. Comparing with float32 instead would blame the
fold for the errors of what it is compared with. Where a value has an axis of channels, axis 1, each channel is judged by
itself too, against a wider bound that `channels` tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from normserve_models import channels
from normserve_models.channels import Channels
from normserve_models.reference import widened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normserve_models.kernels import Array

# About 16 units of roundoff; for double the reference is itself no better than 1e-14.
FLOORS = {
    ir.DataType.DOUBLE: 1e-12,
    ir.DataType.FLOAT: 1e-6,
    ir.DataType.FLOAT16: 8e-3,
    ir.DataType.BFLOAT16: 6e-2,
}
ROUNDOFFS = {
    ir.DataType.DOUBLE: 2.0**-53,
    ir.DataType.FLOAT: 2.0**-24,
    ir.DataType.FLOAT16: 2.0**-11,
    ir.DataType.BFLOAT16: 2.0**-8,
}
SLACK = 2.0
LARGEST_ERROR = 0.5  # of the largest value
MOST_BY_ROUNDING = 10.0  # times the floor
FOLDED, UNFOLDED = "folded", "unfolded"


def relative_error(got: Array, wanted: Array) -> float:
    """Return max |got - wanted| / max |wanted|, or for other types than floats the share of elements that differ.

    Args:
        got: What came, of any type.
        wanted: The reference, float64 or the same type, of the same shape.

    Returns:
        At least 0; infinite where shapes differ or where infinities and NaN are not in the same places.
    """
    if np.shape(got) != np.shape(wanted):
        return float("inf")
    if wanted.dtype != np.float64:
        return float(np.mean(got != wanted)) if wanted.size else 0.0
    finite = np.isfinite(wanted)
    got = widened(got)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return float("inf")
    difference = np.abs(got[finite] - wanted[finite]).max(initial=0.0)
    scale = np.abs(wanted[finite]).max(initial=0.0)
    if np.isnan(difference):
        return float("inf")
    return float(difference / scale) if scale else float(difference)


def coarsest(model: ir.Model) -> ir.DataType:
    """Return the float type with the fewest digits among the inputs, outputs and initializers of a model."""
    values = (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values())
    kinds = [value.dtype for value in values if value.dtype in FLOORS]
    return max(kinds, key=FLOORS.__getitem__, default=ir.DataType.FLOAT)


@dataclass(frozen=True)
class Allowance:
    """How far the folded file may be off.

    Attributes:
        coarsest: The float type with the fewest digits in the file.
        tolerance: The largest error allowed, in place of the bound of a whole value; None for that bound. The bound of a
            channel is widened to it, but never narrowed.
    """

    coarsest: ir.DataType
    tolerance: float | None = None

    def bound(self, unfolded: float, rounding: float = 0.0) -> float:
        """Return the bound of a whole value.

        Args:
            unfolded: How far the unfolded file is off; where that is no rounding any more, but another function than the
                reference, it says nothing about the folded one.
            rounding: How far it would be off if its numbers were rounded at random; see `Measure.look_at_rounding`.
        """
        if self.tolerance is not None:
            return self.tolerance
        floor = FLOORS[self.coarsest]
        measured = unfolded if unfolded <= LARGEST_ERROR else 0.0
        return max(floor, SLACK * max(measured, min(rounding, MOST_BY_ROUNDING * floor)))

    @property
    def roundoff(self) -> float:
        """The unit of roundoff of the coarsest type."""
        return ROUNDOFFS[self.coarsest]

    @property
    def channel_floor(self) -> float:
        """What any channel may be off."""
        return max(channels.FLOORS[self.coarsest], self.tolerance or 0.0)


class Measure:
    """The largest errors of one value in both files, as a whole and channel by channel."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._worst = {FOLDED: 0.0, UNFOLDED: 0.0}
        self._rounding = 0.0
        self._channels: dict[int, Channels] = {}

    def look_at(self, which: str, got: Array, wanted: Array) -> None:
        """Take in what the file `which` gave, and the reference."""
        self._worst[which] = max(self._worst[which], relative_error(got, wanted))
        if not channels.has_channels(wanted) or got.shape != wanted.shape:
            return  # another shape is an infinite error of the whole value
        count = wanted.shape[channels.CHANNEL_AXIS]  # which a user's samples may have in another size
        if count not in self._channels:
            self._channels[count] = Channels(count, channels.SMALLEST[self._allowance.coarsest])
        self._channels[count].look_at(which, got, wanted)

    def look_at_rounding(self, shaken: Array, wanted: Array) -> None:
        """Take in what the source gives when its numbers are rounded at random, and the reference.

        Where a difference of large numbers makes a small one, every implementation is off by more than the floor, and the one
        that the unfolded file was run with may have been lucky. This says by how much, whatever the fold has done.
        """
        error = relative_error(shaken, wanted)
        if np.isfinite(error):
            self._rounding = max(self._rounding, error)

    @property
    def folded(self) -> float:
        """The error of the folded file."""
        return self._worst[FOLDED]

    @property
    def unfolded(self) -> float:
        """The error of the unfolded file."""
        return self._worst[UNFOLDED]

    @property
    def bound(self) -> float:
        """What the folded file may be off."""
        return self._allowance.bound(self.unfolded, self._rounding)

    @property
    def excess(self) -> float:
        """The error of the folded file as a multiple of its bound."""
        return self.folded / self.bound if self.bound else self.folded

    def __str__(self) -> str:
        return f": {_figures(self.folded, self.unfolded, self.bound)}"

    def misses(self) -> Iterator[str]:
        """Say of the value, and of each of its channels, that is off by more than its bound by how much it is."""
        if self.folded > self.bound:
            yield str(self)
        for held in self._channels.values():
            for miss in held.misses(self._allowance.channel_floor):
                yield f", channel {miss.channel}: {_figures(miss.folded, miss.unfolded, miss.bound)}"


def _figures(folded: float, unfolded: float, bound: float) -> str:
    off = f"the folded file is off by {_figure(folded)}, the unfolded one by {_figure(unfolded)}"
    return f"{off}, allowed is {_figure(bound)}"


def _figure(error: float) -> str:
    """Return an error for people."""
    return f"{error:.3g}" if np.isfinite(error) else "not finite"


def finite(error: float) -> float | None:
    """Return an error for the report, which holds no infinities."""
    return error if np.isfinite(error) else None
