"""The HTTP endpoints, on the same event loop as gRPC."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from normserve_server.http.page import Page
from normserve_server.ports import check_free
from normserve_server.state import State


class Site:
    """Serves /metrics, /health/live and /health/ready, and the page where there is one.

    Args:
        registry: what /metrics shows; None where nothing is recorded, and then it is not found.
        look: gives the service's state; asked before each answer of /metrics and /health/ready.
        page: what is at /; None for nothing.
    """

    def __init__(
        self, registry: CollectorRegistry | None, look: Callable[[], Awaitable[State]], page: Page | None = None
    ) -> None:
        self._registry = registry
        self._look = look
        self._page = page
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/health/live", self._live),
                web.get("/health/ready", self._is_ready),
                *(page.routes if page is not None else ()),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> int:
        """Begins to listen.

        Returns:
            The port, which the system chose if `port` is 0.

        Raises:
            StartError: the address cannot be listened on.
        """
        check_free("HTTP", host, port)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        if self._page is not None:
            self._page.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Ends listening, and every connection."""
        if self._page is not None:
            await self._page.stop()
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        if self._registry is None:
            return web.Response(status=404, text="this server records no metrics: it was started with metrics = false\n")
        await self._look()
        encode, content_type = _encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encode, self._registry)  # thousands of series take milliseconds
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _live(self, _request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _is_ready(self, _request: web.Request) -> web.Response:
        state = await self._look()
        return web.json_response({"ready": state.ready, "models": state.models}, status=200 if state.ready else 503)


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """Plain text where nobody can tell what is accepted, as of `text/plain; version=x`."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        return choose_encoder("")
