# ruff: noqa: A002 - names and positions are torch's
"""torch.nn.functional's normalization operators on numpy arrays: its names, argument order and defaults.

Arrays are float16, bfloat16 (ml_dtypes), float32 or float64; half precision is computed in float32 and rounded once. What
PyTorch refuses is an `InvalidArgumentError` with PyTorch's own words. Arrays that come back are read-only views of the answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar, overload

from normserve_proto.tensors import Array

from normserve import normalization
from normserve.requests import Call
from normserve.results import NormResult

T = TypeVar("T")


class Operators(ABC):
    """The operators, for whoever can send a call and wait for it."""

    @abstractmethod
    def _send(self, call: Call[T], timeout: float | None) -> T: ...

    @overload
    def batch_norm(
        self,
        input: Array,
        running_mean: Array | None,
        running_var: Array | None,
        weight: Array | None = None,
        bias: Array | None = None,
        training: Literal[False] = False,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        *,
        num_batches_tracked: int | None = None,
        timeout: float | None = None,
    ) -> Array: ...

    @overload
    def batch_norm(
        self,
        input: Array,
        running_mean: Array | None,
        running_var: Array | None,
        weight: Array | None = None,
        bias: Array | None = None,
        *,
        training: Literal[True],
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        num_batches_tracked: int | None = None,
        timeout: float | None = None,
    ) -> NormResult: ...

    def batch_norm(
        self,
        input: Array,
        running_mean: Array | None,
        running_var: Array | None,
        weight: Array | None = None,
        bias: Array | None = None,
        training: bool = False,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        *,
        num_batches_tracked: int | None = None,
        timeout: float | None = None,
    ) -> Array | NormResult:
        """Normalizes each channel over the batch and the spatial axes.

        PyTorch updates `running_mean` and `running_var` in place. Over a network nobody can write into the caller's arrays,
        so in training the updated statistics come back beside the output, and the arrays that were passed stay as they were.

        Args:
            input: shape [N, C, ...].
            running_mean: shape [C]; None in training only.
            running_var: shape [C]; None in training only.
            weight: scale, shape [C].
            bias: shift, shape [C].
            training: normalize by the statistics of this batch, and update the running ones.
            momentum: share of the batch in the update, 0 to 1; None for the average over all batches, as in
                torch.nn.BatchNorm, which needs `num_batches_tracked`.
            eps: added to the variance.
            num_batches_tracked: batches seen before this one, >= 0; add one yourself after a call that trained.
            timeout: seconds.

        Returns:
            The normalized array; in training a named tuple (output, running_mean, running_var).

        Raises:
            NormserveError: the call was not answered.
        """
        operator = normalization.batch_norm(
            running_mean=running_mean,
            running_var=running_var,
            weight=weight,
            bias=bias,
            training=training,
            momentum=momentum,
            eps=eps,
            num_batches_tracked=num_batches_tracked,
        )
        if training:
            return self._send(normalization.result_of(input, operator), timeout)
        return self._send(normalization.output_of(input, operator), timeout)

    def layer_norm(
        self,
        input: Array,
        normalized_shape: Sequence[int],
        weight: Array | None = None,
        bias: Array | None = None,
        eps: float = 1e-5,
        *,
        timeout: float | None = None,
    ) -> Array:
        """Normalizes over the trailing axes.

        Args:
            input: shape [*, *normalized_shape].
            normalized_shape: the trailing extents, at least one.
            weight: scale, of shape `normalized_shape`.
            bias: shift, of shape `normalized_shape`.
            eps: added to the variance.
            timeout: seconds.

        Raises:
            NormserveError: the call was not answered.
        """
        operator = normalization.layer_norm(normalized_shape, weight, bias, eps)
        return self._send(normalization.output_of(input, operator), timeout)

    @overload
    def instance_norm(
        self,
        input: Array,
        running_mean: None = None,
        running_var: None = None,
        weight: Array | None = None,
        bias: Array | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
        *,
        timeout: float | None = None,
    ) -> Array: ...

    @overload
    def instance_norm(
        self,
        input: Array,
        running_mean: Array,
        running_var: Array,
        weight: Array | None = None,
        bias: Array | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
        *,
        timeout: float | None = None,
    ) -> Array | NormResult: ...

    def instance_norm(
        self,
        input: Array,
        running_mean: Array | None = None,
        running_var: Array | None = None,
        weight: Array | None = None,
        bias: Array | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
        *,
        timeout: float | None = None,
    ) -> Array | NormResult:
        """Normalizes each channel of each sample over its spatial axes.

        Args:
            input: shape [N, C, ...] or, unbatched, [C, ...].
            running_mean: shape [C].
            running_var: shape [C].
            weight: scale, shape [C].
            bias: shift, shape [C].
            use_input_stats: normalize by the input's own statistics, and update the running ones if they were passed.
            momentum: share of the input in the update, 0 to 1.
            eps: added to the variance.
            timeout: seconds.

        Returns:
            The normalized array; where running statistics were passed and updated, which `batch_norm` explains, a named tuple
            (output, running_mean, running_var).

        Raises:
            NormserveError: the call was not answered.
        """
        operator = normalization.instance_norm(
            running_mean=running_mean,
            running_var=running_var,
            weight=weight,
            bias=bias,
            use_input_stats=use_input_stats,
            momentum=momentum,
            eps=eps,
        )
        if use_input_stats and (running_mean is not None or running_var is not None):
            return self._send(normalization.result_of(input, operator), timeout)
        return self._send(normalization.output_of(input, operator), timeout)

    def group_norm(
        self,
        input: Array,
        num_groups: int,
        weight: Array | None = None,
        bias: Array | None = None,
        eps: float = 1e-5,
        *,
        timeout: float | None = None,
    ) -> Array:
        """Normalizes groups of channels, each sample by itself.

        Args:
            input: shape [N, C, ...].
            num_groups: how many groups, > 0; divides C.
            weight: scale, shape [C].
            bias: shift, shape [C].
            eps: added to the variance.
            timeout: seconds.

        Raises:
            NormserveError: the call was not answered.
        """
        operator = normalization.group_norm(num_groups, weight, bias, eps)
        return self._send(normalization.output_of(input, operator), timeout)

    def rms_norm(
        self,
        input: Array,
        normalized_shape: Sequence[int],
        weight: Array | None = None,
        eps: float | None = None,
        *,
        timeout: float | None = None,
    ) -> Array:
        """Divides by the root of the mean square over the trailing axes.

        Args:
            input: shape [*, *normalized_shape].
            normalized_shape: the trailing extents, at least one.
            weight: scale, of shape `normalized_shape`.
            eps: added to the mean square; None is the machine epsilon of the computing type.
            timeout: seconds.

        Raises:
            NormserveError: the call was not answered.
        """
        operator = normalization.rms_norm(normalized_shape, weight, eps)
        return self._send(normalization.output_of(input, operator), timeout)

    def local_response_norm(
        self,
        input: Array,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        timeout: float | None = None,
    ) -> Array:
        """Divides by what the neighbouring channels have: by (k + alpha * mean of their squares) to the power of beta.

        The window reaches size // 2 channels before its own and (size - 1) // 2 behind; beyond the ends are zeros.

        Args:
            input: shape [N, C, ...], three axes or more.
            size: channels in a window, > 0.
            alpha: factor of the mean square.
            beta: exponent.
            k: added to the scaled mean square.
            timeout: seconds.

        Raises:
            NormserveError: the call was not answered.
        """
        operator = normalization.local_response_norm(size, alpha, beta, k)
        return self._send(normalization.output_of(input, operator), timeout)

    def normalize(
        self,
        input: Array,
        p: float = 2.0,
        dim: int = 1,
        eps: float = 1e-12,
        *,
        timeout: float | None = None,
    ) -> Array:
        """Divides by the Lp norm over one axis.

        Args:
            input: any shape that has the axis.
            p: exponent of the norm; `math.inf` for the greatest magnitude.
            dim: the axis, from -rank to rank - 1.
            eps: least divisor.
            timeout: seconds.

        Raises:
            NormserveError: the call was not answered.
        """
        operator = normalization.normalize(p, dim, eps)
        return self._send(normalization.output_of(input, operator), timeout)
