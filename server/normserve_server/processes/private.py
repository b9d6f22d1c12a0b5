"""A worker's private socket: what the supervisor asks of it and tells it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from normserve_server import descriptions
from normserve_server.descriptions import Describe
from normserve_server.ports import StartError
from normserve_server.processes.fan_out import FanOut
from normserve_server.processes.place import CHANNEL_OPTIONS, WORKER, Place
from normserve_server.side import Look
from normserve_server.state import State


class Private:
    """What a worker has beside its gRPC server; a `Side`.

    Args:
        place: where this worker stands.
    """

    shares_port = True

    def __init__(self, place: Place) -> None:
        self.late = place.late
        self.fan_out = FanOut(place.control)
        self._place = place
        self._look: Look = State
        self._describe: Describe = tuple
        self._loaded = asyncio.Event()
        self._opened = asyncio.Event()
        self._server = grpc.aio.server(options=CHANNEL_OPTIONS)

    def grpc_port(self) -> int:
        """The one that the supervisor has reserved."""
        return self._place.port

    async def start(self, look: Look, describe: Describe) -> Mapping[str, str]:
        """Listens on the private socket."""
        self._look, self._describe = look, describe
        answers = {
            "State": self._answer_state,
            "Describe": self._answer_describe,
            "Loaded": self._answer_loaded,
            "Open": self._answer_open,
        } | self.fan_out.here
        table = {name: _handler(answer) for name, answer in answers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(WORKER, table),))
        try:
            self._server.add_insecure_port(self._place.private)
        except RuntimeError as error:
            raise StartError(f"socket {self._place.private}: {error}") from None
        await self._server.start()
        return {}

    async def loaded(self) -> None:
        """Says so to the supervisor, and waits for its leave."""
        self._loaded.set()
        await self._opened.wait()

    async def stop(self) -> None:
        """Ends listening, and the connection to the supervisor."""
        await self._server.stop(None)
        await self.fan_out.close()

    async def _answer_state(self, _data: bytes) -> bytes:
        return self._look().packed()

    async def _answer_describe(self, _data: bytes) -> bytes:
        return descriptions.packed(self._describe())

    async def _answer_loaded(self, _data: bytes) -> bytes:
        await self._loaded.wait()
        return b""

    async def _answer_open(self, _data: bytes) -> bytes:
        self._opened.set()
        return b""


def _handler(answer: Callable[[bytes], Awaitable[bytes]]) -> Any:
    async def handle(data: bytes, _context: object) -> bytes:
        return await answer(data)

    return grpc.unary_unary_rpc_method_handler(handle)
