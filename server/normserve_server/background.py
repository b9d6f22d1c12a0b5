"""Work that goes on beside the calls."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from normserve_server.errors import ServiceError

_log = structlog.get_logger(__name__)


class Background:
    """Tasks that are ended together; one that fails is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts a task, which need not be awaited."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def finish(self) -> None:
        """Waits for all tasks."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancels all tasks, and waits for their end."""
        for task in self._tasks:
            task.cancel()
        await self.finish()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ServiceError):  # those are for whoever asked
            _log.error("background task failed", exc_info=error)
