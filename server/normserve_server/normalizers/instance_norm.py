"""torch.nn.InstanceNorm1d, 2d and 3d over plain state, bit for bit.

Training moves the running statistics to the mean, over the samples, of what each sample alone would move them to. It does not
count, and with momentum None they do not move.
"""

from dataclasses import dataclass

import numpy as np
from normserve_proto.tensors import Array

from normserve_server.errors import InvalidRequestError
from normserve_server.normalizers import kernels
from normserve_server.normalizers.kernels import Statistics
from normserve_server.normalizers.layer import State, Tracked

MOST_WITHOUT_ELEMENTS = 2**16  # they cost who sends them nothing, and the transaction a mean over all of them


@dataclass(frozen=True, slots=True)
class Samples:
    """What an input says of its samples.

    Attributes:
        count: N.
        statistics: of shape [N, C]; None where the samples have no elements.
    """

    count: int
    statistics: Statistics | None


@dataclass(frozen=True, slots=True)
class InstanceNorm(Tracked):
    """The layer; see `Tracked` and `Layer`."""

    def observed(self, x: Array) -> Samples:
        """The statistics of each sample."""
        self._check_updates()
        batch = self._batched(x)
        found = kernels.instance_statistics(batch, self.num_features)
        if found is None and len(batch) > MOST_WITHOUT_ELEMENTS:
            raise InvalidRequestError(f"input has at most {MOST_WITHOUT_ELEMENTS} samples without elements, got {len(batch)}")
        return Samples(len(batch), found)

    def merged(self, state: State, statistics: Samples) -> State:
        """The state after an update."""
        old = Statistics(*(np.tile(state[name], (statistics.count, 1)) for name in ("running_mean", "running_var")))
        momentum = 0.0 if self.momentum is None else self.momentum
        new = kernels.merge(statistics.statistics, *old, momentum) if statistics.statistics else old
        mean, var = (kernels.mean_over_samples(array) for array in new)
        return {**state, "running_mean": mean, "running_var": var}

    def normalized(self, x: Array, state: State, *, training: bool) -> Array:
        """The output."""
        by_input = training or not self.updates
        running = None if by_input else self._running(state)
        output = kernels.instance_norm(self._batched(x), running, *self._parameters(state), self.eps)
        return output.reshape(x.shape)

    def _batched(self, x: Array) -> Array:
        """Checks an input and gives it with N."""
        ranks = (self.dimensions + 1, self.dimensions + 2)
        if x.ndim not in ranks:
            raise InvalidRequestError(f"expected {ranks[0]}D or {ranks[1]}D input (got {x.ndim}D input)")
        self._check_datatype(x)
        axis = x.ndim - ranks[0]
        if (self.affine or self.updates) and x.shape[axis] != self.num_features:
            raise InvalidRequestError(
                f"expected input's size at dim={axis} to match num_features ({self.num_features}), but got: {x.shape[axis]}."
            )
        if self.affine and axis and not len(x):  # PyTorch fails on it
            raise InvalidRequestError(f"input beside weight and bias has a sample or more, got shape {list(x.shape)}")
        return x if axis else x[np.newaxis]
