"""The page at /: its files, the library that draws its charts, and the numbers that it shows."""

import importlib.metadata
import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from normserve_server.descriptions import Description
from normserve_server.http import overview
from normserve_server.http.history import WINDOWS, History
from normserve_server.http.sampler import Sampler
from normserve_server.state import State

STATIC = Path(__file__).with_name("static")
CHARTS = "plotly.min.js"  # of the package plotly

# Nothing from elsewhere, nothing inline, no frame around it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the page's numbers are from.

    Attributes:
        look: gives the service's state.
        describe: tells of each version what does not change while it serves.
        sampler: reads the metrics; None where nothing is recorded.
    """

    look: Callable[[], Awaitable[State]]
    describe: Callable[[], Awaitable[Sequence[Description]]]
    sampler: Sampler | None


class Page:
    """Serves / and what it needs, and /api/overview.

    Args:
        sources: where its numbers are from.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._charts = _charts()
        self._version = importlib.metadata.version("normserve")

    @property
    def routes(self) -> list[web.RouteDef]:
        """The page's paths."""
        return [
            web.get("/", _guarded(self._index)),
            web.get("/static/{name}", _guarded(self._file)),
            web.get("/api/overview", _guarded(self._overview)),
        ]

    def start(self) -> None:
        """Begins to keep the history."""
        if self._sources.sampler is not None:
            self._sources.sampler.start()

    async def stop(self) -> None:
        """Keeps it no more."""
        if self._sources.sampler is not None:
            await self._sources.sampler.stop()

    async def _index(self, _request: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / "index.html")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name == CHARTS and self._charts is not None:
            return web.FileResponse(self._charts)
        if name not in _FILES:
            return web.Response(status=404, text="there is no such file\n")
        return web.FileResponse(STATIC / name)

    async def _overview(self, request: web.Request) -> web.Response:
        minutes = request.query.get("minutes", str(WINDOWS[1]))
        if minutes not in map(str, WINDOWS):
            return web.Response(status=400, text=f"minutes: wanted one of {', '.join(map(str, WINDOWS))}, got '{minutes}'\n")
        state, descriptions = await self._sources.look(), await self._sources.describe()
        names = [f"{each.model}/{each.version}" for each in descriptions]
        scope = request.query.get("model", "")
        if scope and scope not in names:
            return web.Response(status=404, text=f"model: there is no '{scope}'; there are {', '.join(names) or 'none'}\n")
        answer = self._answer(int(minutes), scope, state, descriptions)
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    def _answer(self, minutes: int, scope: str, state: State, descriptions: Sequence[Description]) -> overview.Json:
        sampler = self._sources.sampler
        history = sampler.history if sampler is not None else History()
        if sampler is not None:
            sampler.note_reader()
        return {
            "server": {
                "version": self._version,
                "ready": state.ready,
                "recording": sampler is not None,
                "charts": self._charts is not None,
                "versions_left_out": history.left_out,
            },
            **overview.window(history, minutes, scope),
            "models": overview.models(history, minutes, descriptions, state),
        }


def _charts() -> Path | None:
    """The file of the library, found without its import; None where it is not installed."""
    spec = importlib.util.find_spec("plotly")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((file for folder in folders if (file := Path(folder) / "package_data" / CHARTS).is_file()), None)


def _guarded(handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = await handler(request)
        response.headers.update(_HEADERS)
        return response

    return handle


_FILES = frozenset(path.name for path in STATIC.iterdir())
