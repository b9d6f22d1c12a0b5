"""grpc.health.v1 from the repository's states: service "" for the server, and one service a model, by its name."""

from typing import Any

from grpc_health.v1 import health, health_pb2

from normserve_server.repository import Repository

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Tells health checkers what serves.

    Attributes:
        servicer: the service's handlers.
    """

    def __init__(self, repository: Repository) -> None:
        self.servicer: Any = health.aio.HealthServicer()
        self._repository = repository

    async def publish(self) -> None:
        """Takes over the repository's present states."""
        for version in self._repository.versions():
            await self.servicer.set(version.model, SERVING if version.ready else NOT_SERVING)
        await self.servicer.set("", SERVING if self._repository.ready else NOT_SERVING)

    async def drain(self) -> None:
        """Says NOT_SERVING for everything, for good."""
        await self.servicer.enter_graceful_shutdown()
