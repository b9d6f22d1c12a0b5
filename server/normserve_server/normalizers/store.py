"""Group commit: what waits while a transaction is written goes together into the next one.

So one disk flush serves as many calls as came during the flush before, and a call that comes alone waits for nobody.
"""

import asyncio
from typing import Any

from normserve_server.calls import now
from normserve_server.errors import OverloadedError
from normserve_server.metrics import Metrics
from normserve_server.normalizers.database import Database, Operation
from normserve_server.workers import Worker

MOST_IN_GROUP = 1024
RETRY_AFTER_MS = 50


class Store:
    """Carries operations out, in the order in which they come.

    Args:
        database: used on a thread of its own.
        metrics: where groups are noted.
        most_waiting: operations; the next one is refused.
    """

    def __init__(self, database: Database, metrics: Metrics, most_waiting: int) -> None:
        self._database = database
        self._metrics = metrics
        self._most_waiting = most_waiting
        self._worker = Worker("normalizers")
        self._waiting: list[tuple[Operation, asyncio.Future[Any]]] = []
        self._busy = False

    async def open(self) -> None:
        """Opens the database now, and not with the first operation.

        Raises:
            StateError: it cannot be.
        """
        await self._worker.call(self._database.open)

    async def run(self, operation: Operation) -> Any:
        """Carries out an operation; what it changed is on the disk when this returns.

        If the caller is cancelled before its group begins, nothing is done.

        Raises:
            OverloadedError: too many wait.
            StateError: the database cannot be read or written.
            ServiceError: what the operation raises.
        """
        if len(self._waiting) >= self._most_waiting:
            raise OverloadedError(
                f"{self._most_waiting} calls wait for the normalizers' state already, which is the limit",
                retry_after_ms=RETRY_AFTER_MS,
            )
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, future))
        if not self._busy:
            self._next()
        return await future

    async def close(self) -> None:
        """Ends the thread; what was begun is finished."""
        await self._worker.call(self._database.close)
        await self._worker.close()

    def _next(self) -> None:
        waiting = [one for one in self._waiting if not one[1].done()]
        group, self._waiting = waiting[:MOST_IN_GROUP], waiting[MOST_IN_GROUP:]
        self._busy = bool(group)
        if not group:
            return
        operations = [operation for operation, _ in group]
        futures = [future for _, future in group]
        started = now()

        def done(outcomes: Any, error: BaseException | None) -> None:
            self._metrics.normalizer_group_seconds.observe(now() - started)
            self._next()
            for future, outcome in zip(futures, outcomes if error is None else [error] * len(futures), strict=True):
                _settle(future, outcome)

        self._worker.run(lambda: self._database.carry_out(operations), done)


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # its caller left
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
