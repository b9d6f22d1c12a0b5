# ruff: noqa: A002, ASYNC109 - names and positions are torch's; `timeout` is what the server is told of
"""`operators`, awaited."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar, overload

from normserve_proto.tensors import Array

from normserve import normalization
from normserve.requests import Call
from normserve.results import NormResult

T = TypeVar("T")


class AsyncOperators(ABC):
    """The operators, for whoever can send a call and await its answer."""

    @abstractmethod
    async def _send(self, call: Call[T], timeout: float | None) -> T: ...

    @overload
    async def batch_norm(
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
    async def batch_norm(
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

    async def batch_norm(
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
        """As `Client.batch_norm`."""
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
            return await self._send(normalization.result_of(input, operator), timeout)
        return await self._send(normalization.output_of(input, operator), timeout)

    async def layer_norm(
        self,
        input: Array,
        normalized_shape: Sequence[int],
        weight: Array | None = None,
        bias: Array | None = None,
        eps: float = 1e-5,
        *,
        timeout: float | None = None,
    ) -> Array:
        """As `Client.layer_norm`."""
        operator = normalization.layer_norm(normalized_shape, weight, bias, eps)
        return await self._send(normalization.output_of(input, operator), timeout)

    @overload
    async def instance_norm(
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
    async def instance_norm(
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

    async def instance_norm(
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
        """As `Client.instance_norm`."""
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
            return await self._send(normalization.result_of(input, operator), timeout)
        return await self._send(normalization.output_of(input, operator), timeout)

    async def group_norm(
        self,
        input: Array,
        num_groups: int,
        weight: Array | None = None,
        bias: Array | None = None,
        eps: float = 1e-5,
        *,
        timeout: float | None = None,
    ) -> Array:
        """As `Client.group_norm`."""
        operator = normalization.group_norm(num_groups, weight, bias, eps)
        return await self._send(normalization.output_of(input, operator), timeout)

    async def rms_norm(
        self,
        input: Array,
        normalized_shape: Sequence[int],
        weight: Array | None = None,
        eps: float | None = None,
        *,
        timeout: float | None = None,
    ) -> Array:
        """As `Client.rms_norm`."""
        operator = normalization.rms_norm(normalized_shape, weight, eps)
        return await self._send(normalization.output_of(input, operator), timeout)

    async def local_response_norm(
        self,
        input: Array,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        timeout: float | None = None,
    ) -> Array:
        """As `Client.local_response_norm`."""
        operator = normalization.local_response_norm(size, alpha, beta, k)
        return await self._send(normalization.output_of(input, operator), timeout)

    async def normalize(
        self,
        input: Array,
        p: float = 2.0,
        dim: int = 1,
        eps: float = 1e-12,
        *,
        timeout: float | None = None,
    ) -> Array:
        """As `Client.normalize`."""
        operator = normalization.normalize(p, dim, eps)
        return await self._send(normalization.output_of(input, operator), timeout)
