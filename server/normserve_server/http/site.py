"""The HTTP endpoints, on the same event loop as gRPC."""

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


class Site:
    """Serves /metrics, /health/live and /health/ready.

    Args:
        registry: what /metrics shows.
        settle: brings that up to date.
        states: gives each model's state, for /health/ready, by "model/version".
        ready: whether the server is ready for calls.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        settle: Callable[[], None],
        states: Callable[[], Mapping[str, str]],
        ready: Callable[[], bool],
    ) -> None:
        self._registry = registry
        self._settle = settle
        self._states = states
        self._ready = ready
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/health/live", self._live),
                web.get("/health/ready", self._is_ready),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> int:
        """Begins to listen.

        Returns:
            The port, which the system chose if `port` is 0.

        Raises:
            OSError: the address cannot be listened on.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Ends listening, and every connection."""
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        self._settle()
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encode, self._registry)  # thousands of series take milliseconds
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _live(self, _request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _is_ready(self, _request: web.Request) -> web.Response:
        ready = self._ready()
        return web.json_response({"ready": ready, "models": dict(self._states())}, status=200 if ready else 503)
