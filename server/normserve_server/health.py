"""grpc.health.v1 from the repository's states: service "" for the server, and one service a model, by its name."""

from typing import Any

from grpc_health.v1 import health, health_pb2

from normserve_server.repository import Repository

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN  # of a model that is gone


class Health:
    """Tells health checkers what serves.

    Attributes:
        servicer: the service's handlers.
    """

    def __init__(self, repository: Repository) -> None:
        self.servicer: Any = health.aio.HealthServicer()
        self._repository = repository
        self._told: dict[str, Any] = {}

    async def follow(self) -> None:
        """Takes over the repository's states, and then every change of them, for ever."""
        while True:
            await self.publish()
            await self._repository.next_change()

    async def publish(self) -> None:
        """Takes over the repository's present states."""
        models = self._repository.models()
        statuses = dict.fromkeys(self._told, UNKNOWN) | {name: _status(ready) for name, ready in models.items()}
        for service, status in (statuses | {"": _status(self._repository.ready)}).items():
            if self._told.get(service) != status:
                self._told[service] = status
                await self.servicer.set(service, status)

    async def drain(self) -> None:
        """Says NOT_SERVING for everything, for good."""
        await self.servicer.enter_graceful_shutdown()


def _status(ready: bool) -> Any:
    return SERVING if ready else NOT_SERVING
