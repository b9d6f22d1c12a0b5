"""What a serving process has beside its gRPC server, if it is alone: HTTP, a port of its own, and all metrics itself.

`processes.private.Private` is the same for one of several workers.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry

from normserve_server import gpus, service_metrics
from normserve_server.descriptions import Describe
from normserve_server.http.history import History
from normserve_server.http.page import Page, Sources
from normserve_server.http.readings import NAMES
from normserve_server.http.sampler import Sampler
from normserve_server.http.site import Site
from normserve_server.ports import check_free, joined
from normserve_server.settings import Settings
from normserve_server.state import State

if TYPE_CHECKING:
    from normserve_server.processes.fan_out import FanOut

Look: TypeAlias = Callable[[], State]
T = TypeVar("T")


class Side(Protocol):
    """The process's surroundings.

    Attributes:
        late: whether others serve already: then no call is to come in before it can be answered.
        shares_port: whether other processes listen on the gRPC port too.
        fan_out: what sends calls that concern all processes to all; None where there is one.
    """

    @property
    def late(self) -> bool: ...  # noqa: D102 - above

    @property
    def shares_port(self) -> bool: ...  # noqa: D102

    @property
    def fan_out(self) -> "FanOut | None": ...  # noqa: D102

    def grpc_port(self) -> int:
        """The gRPC port to listen on, 0 for any; StartError where it is taken."""

    async def start(self, look: Look, describe: Describe) -> Mapping[str, str]:
        """Begins to answer with what these two give; names what listens, for the log. StartError where it cannot."""

    async def loaded(self) -> None:
        """Is told that everything has been loaded or has failed, and waits until calls may come."""

    async def stop(self) -> None:
        """Ends it, last of all."""


class Alone:
    """A process without a supervisor.

    Args:
        settings: the service's.
        registry: where its metrics are.
        version: of the service.
    """

    late = False
    shares_port = False
    fan_out = None

    def __init__(self, settings: Settings, registry: CollectorRegistry, version: str) -> None:
        self._settings = settings
        self._registry = registry
        self._version = version
        self._site: Site | None = None
        self._last = State()

    def grpc_port(self) -> int:
        """The one that is set."""
        check_free("gRPC", self._settings.host, self._settings.grpc_port)
        return self._settings.grpc_port

    async def start(self, look: Look, describe: Describe) -> Mapping[str, str]:
        """Serves metrics, health and the page over HTTP."""
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self._registry.register(collector)
        service_metrics.build_info(self._registry, self._version)
        service_metrics.in_flight(self._registry, lambda: self._last)  # metrics are written out on another thread
        service_metrics.workers(self._registry, lambda: 1)
        gpus.register(self._registry)

        async def looked() -> State:
            self._last = look()
            return self._last

        registry = self._registry if self._settings.metrics else None
        sampler = Sampler(self._registry.restricted_registry(NAMES).collect, looked, History()) if registry else None
        sources = Sources(looked, _asynchronous(describe), sampler)
        self._site = Site(registry, looked, Page(sources) if self._settings.dashboard else None)
        port = await self._site.start(self._settings.host, self._settings.http_port)
        return {"http": f"http://{joined(self._settings.host, port)}"}

    async def loaded(self) -> None:
        """Calls come already."""

    async def stop(self) -> None:
        """Ends HTTP."""
        if self._site is not None:
            await self._site.stop()


def _asynchronous(function: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    async def call() -> T:
        return function()

    return call
