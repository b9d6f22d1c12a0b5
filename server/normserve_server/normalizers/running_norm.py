"""Running mean and variance over all samples seen, as reinforcement learning keeps them of observations.

With n samples seen and m new ones, of means a and b and biased variances u and v (Chan, Golub and LeVeque 1979):
mean = a + (b - a) m / (n + m), var = (u n + v m + (b - a)² n m / (n + m)) / (n + m). All in float64.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from normserve_proto.tensors import DTYPES, Array, datatype_of

from normserve_server.errors import InvalidRequestError
from normserve_server.normalizers.layer import FLOATS, Layout, State
from normserve_server.normalizers.state_dicts import expect


@dataclass(frozen=True, slots=True)
class Moments:
    """What an input says of its samples.

    Attributes:
        count: how many.
        mean: shape of a sample; and `var`, the biased one.
    """

    count: int
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
        self._check(x)
        count = prod(x.shape[: x.ndim - len(self.shape)])
        samples = x.astype(np.float64).reshape(count, *self.shape)
        if not count:
            return None
        with np.errstate(all="ignore"):
            mean = np.add.reduce(samples) / count
            away = samples - mean
            return Moments(count, np.asarray(mean), np.asarray(np.add.reduce(away * away) / count))

    def merged(self, state: State, statistics: Moments | None) -> State:
        """The state after an update."""
        if statistics is None:
            return state
        m, mean, var = statistics.count, statistics.mean, statistics.var
        n = float(state["count"])
        with np.errstate(all="ignore"):
            away = mean - state["mean"]
            moved = state["mean"] + away * (m / (n + m))
            spread = (state["var"] * n + var * m + np.square(away) * (n * m / (n + m))) / (n + m)
        return {"count": np.asarray(n + m), "mean": np.asarray(moved), "var": np.asarray(spread)}

    def normalized(self, x: Array, state: State, *, training: bool) -> Array:
        """The output."""
        self._check(x)
        with np.errstate(all="ignore"):
            y = (x.astype(np.float64) - state["mean"]) / np.sqrt(state["var"] + self.eps)
            if self.clip is not None:
                y = np.clip(y, -self.clip, self.clip)
            return np.asarray(y).astype(x.dtype)

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

    def _check(self, x: Array) -> None:
        if datatype_of(x) not in FLOATS:
            raise InvalidRequestError(f"input is one of {', '.join(FLOATS)}, got {datatype_of(x)}")
        if x.ndim < len(self.shape) or x.shape[x.ndim - len(self.shape) :] != self.shape:
            raise InvalidRequestError(f"input has shape [..., {', '.join(map(str, self.shape))}], got {list(x.shape)}")
