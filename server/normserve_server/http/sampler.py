"""Reads the metrics from time to time for the history: every second while somebody looks, else seldom.

It never takes more than a hundredth of a core: with thousands of series it reads less often.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog
from prometheus_client import Metric

from normserve_server.calls import now
from normserve_server.http.history import History
from normserve_server.http.readings import Reading, read
from normserve_server.state import State

WATCHED_SECONDS = 1.0  # between two readings while somebody looks
IDLE_SECONDS = 5.0  # while nobody does
PATIENCE_SECONDS = 30.0  # after which somebody who has not asked again is gone
SHARE = 0.01  # of a core, at most

_log = structlog.get_logger(__name__)


class Sampler:
    """Fills the history.

    Args:
        collect: gives the metrics, as they are scraped; called in a thread.
        look: brings the metrics up to date, and gives the service's state.
        history: what is filled.

    Attributes:
        history: likewise.
    """

    def __init__(self, collect: Callable[[], Iterable[Metric]], look: Callable[[], Awaitable[State]], history: History) -> None:
        self.history = history
        self._collect = collect
        self._look = look
        self._asked = -PATIENCE_SECONDS
        self._somebody = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to read."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Reads no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def note_reader(self) -> None:
        """Notes that somebody looks."""
        self._asked = now()
        self._somebody.set()

    async def _run(self) -> None:
        while True:
            cost = await self._sample()
            await self._wait(cost / SHARE)

    async def _sample(self) -> float:
        """Reads once, and gives the processor time that it took, in seconds."""
        try:
            state = await self._look()
            reading, seconds = await asyncio.to_thread(self._read)
        except Exception:  # noqa: BLE001 - the next reading may do: nobody would begin again
            _log.exception("metrics could not be read for the page")
            return 0.0
        reading.gauges |= {"in_flight": state.calls, "admitted_bytes": state.size}
        self.history.add(reading, now())
        return seconds

    def _read(self) -> tuple[Reading, float]:
        begin = time.thread_time()
        reading = read(self._collect(), self.history.columns)
        return reading, time.thread_time() - begin

    async def _wait(self, least: float) -> None:
        await asyncio.sleep(max(WATCHED_SECONDS, least))
        if now() - self._asked < PATIENCE_SECONDS:
            return
        self._somebody.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_SECONDS - WATCHED_SECONDS):  # unlike wait_for it never loses a cancellation
                await self._somebody.wait()
