"""torch.nn.BatchNorm1d, 2d and 3d over plain state, bit for bit.

With momentum None, where torch averages in the layer's own dtype, the running statistics are kept in float64, so that it does
not matter in which order callers come. They are rounded where they leave.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from normserve_proto.tensors import DTYPES, Array

from normserve_server.errors import InvalidRequestError
from normserve_server.normalizers import kernels
from normserve_server.normalizers.kernels import Statistics
from normserve_server.normalizers.layer import COUNTER, State, Tracked

MOST_COUNTED = 2**63 - 1
RANKS = {0: range(2, 65), 1: range(2, 4), 2: range(4, 5), 3: range(5, 6)}
WORDS = {0: "2D or more", 1: "2D or 3D", 2: "4D", 3: "5D"}


@dataclass(frozen=True, slots=True)
class BatchNorm(Tracked):
    """The layer; see `Tracked` and `Layer`."""

    @property
    def statistics_dtype(self) -> np.dtype[Any]:
        """Of the running statistics as they are kept."""
        return DTYPES["FP64"] if self.momentum is None else self.dtype

    def observed(self, x: Array) -> Statistics | None:
        """The statistics of a batch; None for an empty one, which only counts."""
        self._check_updates()
        self._check(x, by_batch=True)
        return kernels.batch_statistics(x, self.num_features)

    def merged(self, state: State, statistics: Statistics | None) -> State:
        """The state after an update.

        Raises:
            InvalidRequestError: it cannot be counted up any more.
        """
        if state[COUNTER] == MOST_COUNTED:
            raise InvalidRequestError(f"{COUNTER} is {MOST_COUNTED}, which cannot be counted up")
        count = state[COUNTER] + 1
        if statistics is None:
            return {**state, COUNTER: np.asarray(count)}
        momentum = 1.0 / float(count) if self.momentum is None else self.momentum
        mean, var = kernels.merge(statistics, state["running_mean"], state["running_var"], momentum)
        return {**state, "running_mean": mean, "running_var": var, COUNTER: np.asarray(count)}

    def normalized(self, x: Array, state: State, *, training: bool) -> Array:
        """The output."""
        by_batch = training or not self.updates
        self._check(x, by_batch=by_batch)
        return kernels.batch_norm(x, None if by_batch else self._running(state), *self._parameters(state), self.eps)

    def _check(self, x: Array, *, by_batch: bool) -> None:
        if x.ndim not in RANKS[self.dimensions]:
            raise InvalidRequestError(f"expected {WORDS[self.dimensions]} input (got {x.ndim}D input)")
        self._check_datatype(x)
        name = "running_mean" if self.updates else "weight"
        if (self.affine or self.updates) and x.shape[1] != self.num_features:
            raise InvalidRequestError(f"{name} should contain {x.shape[1]} elements not {self.num_features}")
        if by_batch and self.eps <= 0:
            raise InvalidRequestError(f"batch_norm eps must be positive during training, but got {self.eps}")
