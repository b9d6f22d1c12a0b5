"""The affine map of an eval-mode batch norm, in float64.

A batch norm with fixed statistics maps each channel by y = scale * x + shift with

    scale = gamma / sqrt(variance + epsilon),    shift = beta - scale * mean

(Ioffe and Szegedy, "Batch Normalization" (2015), algorithm 2). Maps compose: outer after inner is
scale = outer.scale * inner.scale, shift = outer.scale * inner.shift + outer.shift. Everything here is float64, and
nothing is rounded to the type of the file before the very end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

F64 = npt.NDArray[np.float64]


class BadStatisticsError(ValueError):
    """The parameters give no finite map; the message names the first that is at fault."""


@dataclass(frozen=True, eq=False)
class Affine:
    """y = scale * x + shift along one axis.

    Attributes:
        scale: float64 [C].
        shift: float64 [C], or a field where the shift is not the same everywhere, as at a zero-padded border: one value an
            element of a sample, of the rank of the tensor, [1, ...] with C on `axis`.
        axis: The channel axis of the tensor that the map acts on, from 0.
    """

    scale: F64
    shift: F64
    axis: int

    @property
    def channels(self) -> int:
        """C."""
        return len(self.scale)

    @property
    def uniform(self) -> bool:
        """Whether the shift is one value a channel."""
        return self.shift.ndim == 1

    def after(self, scale: F64 | float, shift: F64 | float) -> Affine:
        """Return the map that does x -> scale * x + shift first and this one, which is uniform, then.

        Args:
            scale: float64 [C] or a scalar.
            shift: float64 [C] or a scalar.
        """
        return Affine(self.scale * scale, self.scale * shift + self.shift, self.axis)

    def before(self, scale: F64 | float, shift: F64 | float) -> Affine:
        """Return the map that does this one first and x -> scale * x + shift then.

        Args:
            scale: float64 [C] or a scalar.
            shift: float64 [C] or a scalar.
        """
        if self.uniform:
            return Affine(self.scale * scale, self.shift * scale + shift, self.axis)
        wide = (np.broadcast_to(np.asarray(value), self.channels) for value in (scale, shift))
        factor, addend = (along(value, self.shift.ndim, self.axis) for value in wide)
        return Affine(self.scale * scale, self.shift * factor + addend, self.axis)

    def without_shift(self) -> Affine:
        """Return the map that only scales."""
        return Affine(self.scale, np.zeros(self.channels), self.axis)

    def along(self, rank: int, axis: int | None = None) -> tuple[F64, F64]:
        """Return scale and shift, a uniform one, so that they broadcast over `rank` dimensions along `axis` or self.axis."""
        where = self.axis if axis is None else axis
        return along(self.scale, rank, where), along(self.shift, rank, where)

    def field(self, shape: Sequence[int]) -> F64:
        """Return the shift in full, for one sample of a tensor of `shape`; its first extent does not count."""
        shift = along(self.shift, len(shape), self.axis) if self.uniform else self.shift
        return np.ascontiguousarray(np.broadcast_to(shift, (1, *shape[1:])))


def with_field(scale: F64, field: F64, axis: int) -> Affine:
    """Return the map with the shift `field` [1, ...], which becomes one value a channel where it is the same everywhere."""
    flat = np.moveaxis(field, axis, 0).reshape(field.shape[axis], -1)
    if flat.size and (flat == flat[:, :1]).all():
        return Affine(scale, np.broadcast_to(flat[:, 0], scale.shape), axis)
    return Affine(scale, field, axis)


def along(values: F64, rank: int, axis: int) -> F64:
    """Return values [C] reshaped so that they broadcast over a tensor of `rank` along `axis`."""
    shape = [1] * rank
    shape[axis] = len(values)
    return values.reshape(shape)


def of_batch_norm(gamma: F64, beta: F64, mean: F64, variance: F64, epsilon: float) -> Affine:
    """Return the map of a batch norm on axis 1.

    Args:
        gamma: float64 [C], ONNX's `scale`.
        beta: float64 [C], ONNX's `B`.
        mean: float64 [C].
        variance: float64 [C], at least 0.
        epsilon: What is added to the variance.

    Raises:
        BadStatisticsError: A parameter is not finite, a variance is negative, variance + epsilon is 0, or the
            lengths differ.
    """
    named = {"scale": gamma, "B": beta, "mean": mean, "variance": variance}
    for name, values in named.items():
        if values.shape != gamma.shape or values.ndim != 1:
            raise BadStatisticsError(f"{name} has the shape {list(values.shape)}, wanted [{gamma.size}]")
        if not np.isfinite(values).all():
            raise BadStatisticsError(f"{name} holds {_first(values, ~np.isfinite(values))}")
    if (variance < 0).any():
        raise BadStatisticsError(f"variance holds {_first(variance, variance < 0)}")
    if (variance + epsilon <= 0).any():
        raise BadStatisticsError(f"variance + epsilon is 0 at {_first(variance, variance + epsilon <= 0)}")
    scale = gamma / np.sqrt(variance + epsilon)
    return Affine(scale, beta - scale * mean, axis=1)


def _first(values: F64, mask: npt.NDArray[np.bool_]) -> str:
    channel = int(np.flatnonzero(mask)[0])
    return f"{values[channel]} in channel {channel}"
