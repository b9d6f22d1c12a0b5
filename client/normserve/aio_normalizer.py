# ruff: noqa: A002, ASYNC109 - the input has torch's name; `timeout` is what the server is told of
"""`normalizer`, awaited."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

from normserve_proto.tensors import Array

from normserve import normalizer_requests
from normserve.layers import Applied, Layer, NormalizerInfo, StateDict
from normserve.normalizer_requests import KEEP, Keep
from normserve.requests import Call, Steps

T = TypeVar("T")


class AsyncNormalizers(ABC):
    """The verbs about normalizers, for whoever can send a call and await its answer."""

    @abstractmethod
    async def _send(self, call: Call[T], timeout: float | None) -> T: ...

    @abstractmethod
    async def _follow(self, steps: Steps[T], timeout: float | None) -> T: ...

    def normalizer(self, name: str) -> "AsyncNormalizer":
        """As `Client.normalizer`."""
        return AsyncNormalizer(self, name)

    async def normalizers(self, *, page_size: int = 0, timeout: float | None = None) -> tuple[NormalizerInfo, ...]:
        """As `Client.normalizers`."""
        return await self._follow(normalizer_requests.list_all(page_size), timeout)


class AsyncNormalizer:
    """`Normalizer` for coroutines: the same verbs, arguments, answers and errors, awaited.

    Args:
        client: what sends the calls.
        name: without "normalizers/".
    """

    def __init__(self, client: AsyncNormalizers, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"AsyncNormalizer({self.name!r})"

    async def create(
        self, layer: Layer, *, training: bool = True, request_id: str = "", timeout: float | None = None
    ) -> NormalizerInfo:
        """As `Normalizer.create`."""
        return await self._client._send(
            normalizer_requests.create(self.name, layer, training=training, request_id=request_id), timeout
        )

    async def restore(self, snapshot: bytes, *, request_id: str = "", timeout: float | None = None) -> NormalizerInfo:
        """As `Normalizer.restore`."""
        return await self._client._send(normalizer_requests.restore(self.name, snapshot, request_id=request_id), timeout)

    async def get(self, *, timeout: float | None = None) -> NormalizerInfo:
        """As `Normalizer.get`."""
        return await self._client._send(normalizer_requests.get(self.name), timeout)

    async def update(
        self,
        *,
        momentum: float | Keep | None = KEEP,
        clip: float | Keep | None = KEEP,
        training: bool | None = None,
        etag: str = "",
        timeout: float | None = None,
    ) -> NormalizerInfo:
        """As `Normalizer.update`."""
        steps = normalizer_requests.update(self.name, momentum=momentum, clip=clip, training=training, etag=etag)
        return await self._client._follow(steps, timeout)

    async def delete(self, *, etag: str = "", missing_ok: bool = False, timeout: float | None = None) -> None:
        """As `Normalizer.delete`."""
        await self._client._send(normalizer_requests.delete(self.name, etag=etag, missing_ok=missing_ok), timeout)

    async def apply(
        self, input: Array, *, training: bool | None = None, request_id: str = "", timeout: float | None = None
    ) -> Array:
        """As `Normalizer.apply`."""
        call = normalizer_requests.apply_output(self.name, input, training=training, request_id=request_id)
        return await self._client._send(call, timeout)

    async def apply_numbered(
        self, input: Array, *, training: bool | None = None, request_id: str = "", timeout: float | None = None
    ) -> Applied:
        """As `Normalizer.apply_numbered`."""
        call = normalizer_requests.apply(self.name, input, training=training, request_id=request_id)
        return await self._client._send(call, timeout)

    async def observe(self, input: Array, *, request_id: str = "", timeout: float | None = None) -> int:
        """As `Normalizer.observe`."""
        return await self._client._send(normalizer_requests.observe(self.name, input, request_id=request_id), timeout)

    async def state_dict(self, *, timeout: float | None = None) -> StateDict:
        """As `Normalizer.state_dict`."""
        return await self._client._send(normalizer_requests.get_state_dict(self.name), timeout)

    async def load_state_dict(
        self, state_dict: Mapping[str, Any], *, etag: str = "", request_id: str = "", timeout: float | None = None
    ) -> NormalizerInfo:
        """As `Normalizer.load_state_dict`."""
        call = normalizer_requests.load_state_dict(self.name, state_dict, etag=etag, request_id=request_id)
        return await self._client._send(call, timeout)

    async def snapshot(self, *, timeout: float | None = None) -> bytes:
        """As `Normalizer.snapshot`."""
        return await self._client._send(normalizer_requests.get_snapshot(self.name), timeout)
