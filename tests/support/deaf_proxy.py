"""A TCP proxy that can stop passing on what the server says, and cut the connections then: answers that are lost on the way."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator


class DeafProxy:
    """Between a client and a server at `target`.

    Attributes:
        address: "host:port" for the client.
        deaf: set, and nothing of what the server says arrives.
    """

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self.deaf = threading.Event()
        self.address = ""

    def cut(self) -> None:
        """Cuts all connections, and passes on again for those that come."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self.deaf.clear()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, server_writer}
        passing = (self._pass(reader, server_writer, can_be_deaf=False), self._pass(server_reader, writer, can_be_deaf=True))
        await asyncio.gather(*passing, return_exceptions=True)
        self._writers -= {writer, server_writer}
        for one in (writer, server_writer):
            one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, can_be_deaf: bool) -> None:
        while data := await reader.read(65536):
            if not (can_be_deaf and self.deaf.is_set()):
                writer.write(data)
                await writer.drain()

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    @contextlib.contextmanager
    def running(self) -> Iterator["DeafProxy"]:
        """Runs it in a thread of its own."""
        server = self._loop.run_until_complete(self._listen())
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._close(server), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
