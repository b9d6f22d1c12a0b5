"""A thread that runs one thing after another for an event loop."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any


class Worker:
    """One thread, whose results arrive on the loop that asked.

    Args:
        name: the thread's name, as debuggers and profilers show it.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Runs `job` on the thread, then `done(result, error)` on the calling loop."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            result, error = None, None
            try:
                result = job()
            except BaseException as caught:  # noqa: BLE001 - it is handed to whoever asked for the job
                error = caught
            loop.call_soon_threadsafe(done, result, error)

        self._jobs.put(work)

    async def call(self, job: Callable[[], Any]) -> Any:
        """Runs `job` on the thread and returns what it returns, or raises what it raises.

        If the caller is cancelled before the job's turn, the job does not run, and what it holds is free at once.
        """
        waiting = [job]
        del job  # the traceback of a cancellation keeps this frame
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.run(lambda: _run_next(waiting), done)
        try:
            return await future
        finally:
            waiting.clear()

    async def close(self) -> None:
        """Ends the thread once it has done what it was given; does nothing where it has ended."""
        if not self._ended:
            await self.call(self._end)

    def _end(self) -> None:
        self._ended = True

    def _work(self) -> None:
        while not self._ended:
            self._jobs.get()()  # without a name, which would keep what the job holds until the next one comes


def _run_next(waiting: list[Callable[[], Any]]) -> Any:
    try:
        job = waiting.pop()
    except IndexError:  # its caller left
        return None
    return job()
