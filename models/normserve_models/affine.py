"""The affine map of an eval-mode batch norm, in float64.

A batch norm with fixed statistics maps each channel by y = scale * x + shift with

    scale = gamma / sqrt(variance + epsilon),    shift = beta - scale * mean

(Ioffe and Szegedy, "Batch Normalization" (2015), algorithm 2). Maps compose: outer after inner is
scale = outer.scale * inner.scale, shift = outer.scale * inner.shift + outer.shift. Everything here is float64, and
nothing is rounded to the type of the file before the very end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


class BadStatisticsError(ValueError):
    """The parameters give no finite map; the message names the first that is at fault."""


@dataclass(frozen=True, eq=False)
class Affine:
    """y = scale * x + shift along one axis.

    Attributes:
        scale: float64 [C].
        shift: float64 [C].
        axis: The channel axis of the tensor that the map acts on, from 0.
    """

    scale: F64
    shift: F64
    axis: int

    @property
    def channels(self) -> int:
        """C."""
        return len(self.scale)

    def after(self, scale: F64 | float, shift: F64 | float) -> Affine:
        """Return the map that does x -> scale * x + shift first and this one then.

        Args:
            scale: float64 [C] or a scalar.
            shift: float64 [C] or a scalar.
        """
        return Affine(self.scale * scale, self.scale * shift + self.shift, self.axis)

    def along(self, rank: int, axis: int | None = None) -> tuple[F64, F64]:
        """Return scale and shift reshaped so that they broadcast over a tensor of `rank` along `axis` (or self.axis)."""
        shape = [1] * rank
        shape[self.axis if axis is None else axis] = self.channels
        return self.scale.reshape(shape), self.shift.reshape(shape)


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
