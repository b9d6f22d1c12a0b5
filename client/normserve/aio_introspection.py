# ruff: noqa: ASYNC109 - `timeout` is the deadline that the server is told of, which asyncio.timeout is not
"""`introspection`, awaited."""

from abc import ABC, abstractmethod
from typing import Any, TypeVar

from normserve import requests
from normserve.errors import UnavailableError
from normserve.requests import Call
from normserve.results import ModelIndex, ModelMetadata, ModelStatistics, ServerMetadata

T = TypeVar("T")


class AsyncIntrospection(ABC):
    """The verbs, for whoever can send a call and await its answer."""

    @abstractmethod
    async def _send(self, call: Call[T], timeout: float | None) -> T: ...

    async def is_live(self, *, timeout: float | None = None) -> bool:
        """As `Client.is_live`."""
        try:
            return await self._send(requests.server_live(), timeout)
        except UnavailableError:
            return False

    async def is_ready(self, model: str | None = None, version: str = "", *, timeout: float | None = None) -> bool:
        """As `Client.is_ready`."""
        try:
            return await self._send(requests.ready(model, version), timeout)
        except UnavailableError:
            return False

    async def metadata(self, model: str, version: str = "", *, timeout: float | None = None) -> ModelMetadata:
        """As `Client.metadata`."""
        return await self._send(requests.model_metadata(model, version), timeout)

    async def model_config(self, model: str, version: str = "", *, timeout: float | None = None) -> dict[str, Any]:
        """As `Client.model_config`."""
        return await self._send(requests.model_config(model, version), timeout)

    async def statistics(
        self, model: str = "", version: str = "", *, timeout: float | None = None
    ) -> tuple[ModelStatistics, ...]:
        """As `Client.statistics`."""
        return await self._send(requests.statistics(model, version), timeout)

    async def server_metadata(self, *, timeout: float | None = None) -> ServerMetadata:
        """As `Client.server_metadata`."""
        return await self._send(requests.server_metadata(), timeout)

    async def models(self, *, only_ready: bool = False, timeout: float | None = None) -> tuple[ModelIndex, ...]:
        """As `Client.models`."""
        return await self._send(requests.repository_index(only_ready=only_ready), timeout)
