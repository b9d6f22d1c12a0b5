"""How much the server takes on at a time, in bytes, so that a burst of big messages cannot exhaust its memory."""

import asyncio
from collections.abc import Callable

from normserve_server.calls import now
from normserve_server.errors import OverloadedError, TooLargeError, UnavailableError

RETRY_AFTER_MS = 100


class Admission:
    """Counts the calls that were admitted and whose answers are not yet taken, and the bytes of both.

    Answers count because a caller may ask for more with few bytes than it ever reads.

    Args:
        limit_bytes: most bytes admitted at a time, > 0.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.calls = 0
        self.bytes = 0
        self._draining = False
        self._refused_at = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._streams: set[Callable[[], None]] = set()

    def enter(self, size: int) -> None:
        """Admits a message of `size` bytes; the caller owes a `leave`.

        Raises:
            UnavailableError: the server is draining.
            TooLargeError: the message alone is over the limit.
            OverloadedError: it does not fit beside what is in flight.
        """
        if self._draining:
            self._refused_at = now()
            raise UnavailableError("the server is draining")
        if size > self.limit_bytes:
            raise TooLargeError(f"message of {size} bytes, the server admits {self.limit_bytes} bytes at a time")
        if self.bytes + size > self.limit_bytes:
            raise OverloadedError(
                f"message of {size} bytes beside {self.bytes} in flight, the server admits {self.limit_bytes} at a time",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self.calls += 1
        self.bytes += size
        self._idle.clear()

    def hold(self, size: int) -> None:
        """Adds an answer of `size` bytes to its call; it is not refused, because the work is done."""
        self.bytes += size

    def leave(self, size: int) -> None:
        """Takes back one `enter`; `size` is its request's and its answer's."""
        self.calls -= 1
        self.bytes -= size
        if self.calls == 0:
            self._idle.set()

    def open(self, stop: Callable[[], None]) -> None:
        """Notes a stream, which is no call itself, whose messages are; the caller owes a `close`.

        Args:
            stop: is called once the server drains, which may be now. The stream has to take no more messages then.
        """
        self._streams.add(stop)
        if self._draining:
            self._refused_at = now()
            stop()

    def close(self, stop: Callable[[], None]) -> None:
        """Takes back one `open`."""
        self._streams.discard(stop)

    async def drain(self) -> None:
        """Admits nothing more, stops the streams, and waits until nothing is in flight."""
        self._draining = True
        self._refused_at = now()
        for stop in tuple(self._streams):
            stop()
        await self._idle.wait()

    async def quiet(self, quiet_seconds: float) -> None:
        """Waits, while draining, until nobody has asked for `quiet_seconds`.

        This is for callers that have not heard of it yet: each is told, instead of finding a closed connection.
        """
        while (left := self._refused_at + quiet_seconds - now()) > 0:  # noqa: ASYNC110 - the end moves with every caller
            await asyncio.sleep(left)
