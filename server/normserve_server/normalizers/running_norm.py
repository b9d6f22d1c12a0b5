"""Running mean and variance over all samples seen, as reinforcement learning keeps them of observations.

With n samples seen and m new ones, of means a and b and biased variances u and v (Chan, Golub and LeVeque 1979):
mean = a + (b - a) m / (n + m), var = (u n + v m + (b - a)² n m / (n + m)) / (n + m). All in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from normserve_proto.tensors import DTYPES, Array, datatype_of

from normserve_server.errors import InvalidRequestError
from normserve_server.normalizers.layer import FLOATS, Layout, State
from normserve_server.normalizers.state_dicts import expect

PART_ELEMENTS = 2**16  # of an input that are looked at together: what is made of them in float64 stays in the cache


@dataclass(frozen=True, slots=True)
class Moments:
    """What an input says of its samples.

    Attributes:
        count: how many.
        mean: shape of a sample; and `var`, the biased one.
    """

    count: float
    mean: Array
    var: Array


@dataclass(frozen=True, slots=True)
class RunningNorm:
    """The layer; see `Layer`.

    Attributes:
        shape: of one sample.
        eps: added to the variance, > 0.
        clip: largest absolute value of an output; None for no limit.
    """

    shape: tuple[int, ...]
    eps: float = 1e-8
    clip: float | None = None

    @property
    def updates(self) -> bool:
        """Whether training updates anything."""
        return True

    def layout(self) -> Layout:
        """Names, dtypes and shapes of a state's arrays."""
        kind = DTYPES["FP64"]
        return {"count": (kind, ()), "mean": (kind, self.shape), "var": (kind, self.shape)}

    def initial(self) -> State:
        """No samples; mean 0 and variance 1, by which an input is what it was, to rounding."""
        return {"count": np.zeros(()), "mean": np.zeros(self.shape), "var": np.ones(self.shape)}

    def observed(self, x: Array) -> Moments | None:
        """The moments of an input; None for an empty one."""
        moments: Moments | None = None
        for part in self._parts(self._samples(x)):
            found = _moments(part)
            moments = found if moments is None else _together(moments, found)
        return moments

    def merged(self, state: State, statistics: Moments | None) -> State:
        """The state after an update."""
        if statistics is None:
            return state
        merged = _together(Moments(float(state["count"]), state["mean"], state["var"]), statistics)
        return {"count": np.asarray(merged.count), "mean": merged.mean, "var": merged.var}

    def normalized(self, x: Array, state: State, *, training: bool) -> Array:
        """The output."""
        samples = self._samples(x)
        outputs = np.empty_like(samples)
        for part, output in zip(self._parts(samples), self._parts(outputs), strict=True):
            with np.errstate(all="ignore"):
                y = (part.astype(np.float64) - state["mean"]) / np.sqrt(state["var"] + self.eps)
                output[...] = y if self.clip is None else np.clip(y, -self.clip, self.clip)
        return outputs.reshape(x.shape)

    def exported(self, state: State) -> State:
        """Count, mean and var."""
        return state

    def loaded(self, tensors: State, version: int, present: State) -> State:
        """The same, checked."""
        state = expect(tensors, present)
        for name in ("count", "var"):
            if (state[name] < 0).any():
                raise InvalidRequestError(f"{name} is >= 0, got {state[name].min()}")
        if not np.isfinite(state["count"]):
            raise InvalidRequestError(f"count is finite, got {state['count']}")
        return state

    def adopted(self, state: State) -> State:
        """The state as it is."""
        return state

    def _samples(self, x: Array) -> Array:
        """Checks an input and gives it with one axis before those of a sample."""
        self._check(x)
        return x.reshape(prod(x.shape[: x.ndim - len(self.shape)]), *self.shape)

    def _parts(self, samples: Array) -> Iterator[Array]:
        rows = max(PART_ELEMENTS // prod(self.shape), 1)
        return (samples[start : start + rows] for start in range(0, len(samples), rows))

    def _check(self, x: Array) -> None:
        if datatype_of(x) not in FLOATS:
            raise InvalidRequestError(f"input is one of {', '.join(FLOATS)}, got {datatype_of(x)}")
        if x.ndim < len(self.shape) or x.shape[x.ndim - len(self.shape) :] != self.shape:
            raise InvalidRequestError(f"input has shape [..., {', '.join(map(str, self.shape))}], got {list(x.shape)}")


def _moments(samples: Array) -> Moments:
    count, values = len(samples), samples.astype(np.float64)
    with np.errstate(all="ignore"):
        mean = np.add.reduce(values) / count
        away = values - mean
        return Moments(count, np.asarray(mean), np.asarray(np.add.reduce(away * away) / count))


def _together(one: Moments, other: Moments) -> Moments:
    n, m = one.count, other.count
    with np.errstate(all="ignore"):
        away = other.mean - one.mean
        mean = one.mean + away * (m / (n + m))
        var = (one.var * n + other.var * m + np.square(away) * (n * m / (n + m))) / (n + m)
    return Moments(n + m, np.asarray(mean), np.asarray(var))
