"""One of the N places for a worker: whoever dies there is replaced, at once, or later the more often it dies young."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable

import grpc
import structlog

from normserve_server.calls import now
from normserve_server.ports import StartError
from normserve_server.processes.child import Child

YOUNG_SECONDS = 10.0  # since it began to take calls
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
CANNOT_START = (1, 2)  # exit codes of a server that says why it cannot start

_log = structlog.get_logger(__name__)


class Slot:
    """Keeps one worker running.

    Args:
        number: of the slot.
        start: starts a worker.
        join: makes a worker that was started one of the service, until it takes calls.
        leave: is told of a worker's end, and whether it is going to be replaced.

    Attributes:
        child: the worker; None between two.
        served: whether a worker of this slot has ever taken calls.
    """

    def __init__(
        self,
        number: int,
        start: Callable[[int], Awaitable[Child]],
        join: Callable[[Child], Awaitable[None]],
        leave: Callable[[Child, bool], None],
    ) -> None:
        self.number = number
        self.child: Child | None = None
        self.served = False
        self._start = start
        self._join = join
        self._leave = leave
        self._stop = asyncio.Event()

    async def keep(self) -> int:
        """Has a worker running until `end`.

        Returns:
            The exit code of the last one.

        Raises:
            StartError: the first one could not start.
        """
        died_young = 0
        while True:
            child, code = await self._one()
            if self._stop.is_set():
                return 0 if code == -signal.SIGTERM and child and not child.met else code
            if code in CANNOT_START and not self.served:
                raise StartError(_last_words(child, code))
            young = child is None or child.opened is None or now() - child.opened < YOUNG_SECONDS
            died_young = died_young + 1 if young else 0
            wait = wait_seconds(died_young)
            _log.error("worker ended", worker=self.number, exit_code=code, replaced_in_seconds=wait)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait)
                return 0

    def end(self, number: signal.Signals) -> None:
        """Sends the worker a signal that ends it, and does not replace it."""
        self._stop.set()
        if self.child is not None:
            self.child.signal(number)

    async def _one(self) -> tuple[Child | None, int]:
        """Has one worker running until it ends; gives it and its exit code, or None where the system does not start it."""
        try:
            child = self.child = await self._start(self.number)
        except OSError as error:
            _log.error("worker cannot be started", worker=self.number, reason=error.strerror)
            return None, CANNOT_START[0]
        return child, await self._until_end(child)

    async def _until_end(self, child: Child) -> int:
        if self._stop.is_set():  # while it was being started
            child.signal(signal.SIGTERM)
        tasks = [asyncio.create_task(self._enter(child)), asyncio.create_task(self._watch(child))]
        try:
            return await child.ended()
        finally:
            for task in tasks:
                task.cancel()
            self.child = None
            self._leave(child, not self._stop.is_set())
            await child.close()

    async def _enter(self, child: Child) -> None:
        try:
            await self._join(child)
        except grpc.aio.AioRpcError:  # it has died, as `ended` will tell
            return
        except Exception:  # noqa: BLE001 - the others serve on
            _log.exception("worker cannot join", worker=self.number)
            child.signal(signal.SIGTERM)
        self.served = self.served or child.opened is not None

    async def _watch(self, child: Child) -> None:
        await child.hangs()
        _log.error("worker does not answer and is killed", worker=self.number, pid=child.pid)
        child.signal(signal.SIGKILL)


def wait_seconds(died_young: int) -> float:
    """How long to wait before a worker is replaced, when so many in a row have died young."""
    return min(FIRST_WAIT_SECONDS * 2.0 ** (died_young - 1), LONGEST_WAIT_SECONDS) if died_young else 0.0


def _last_words(child: Child | None, code: int) -> str:
    if child is None:
        return "the system does not start the workers"
    path = child.place.last_words
    return path.read_text() if path.exists() else f"worker {child.slot} ended with exit code {code} before it served"
