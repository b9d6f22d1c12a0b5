"""Group commit: what waits while a transaction is written goes together into the next one.

So one disk flush serves as many calls as came during the flush before. Callers who were answered together tend to come back
together, so the next group waits for as many as are known to be there, though not for long: a group costs hundreds of
microseconds beside what is done in it. A call that comes alone waits for nobody.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from normserve_server.calls import now
from normserve_server.errors import OverloadedError, StateError, StateFullError
from normserve_server.metrics import Metrics
from normserve_server.normalizers.database import Database, Operation
from normserve_server.workers import Worker

MOST_IN_GROUP = 1024
GATHER_SECONDS = 0.01  # most that a group waits for those who are known to be there
GAP_SECONDS = 0.002  # in which none of them comes: the group waits no longer
RETRY_AFTER_MS = 50


class Store:
    """Carries operations out, in the order in which they come.

    Args:
        database: used on `worker` alone.
        worker: its thread, which `close` ends.
        metrics: where groups are noted.
        most_waiting: operations; the next one is refused.
    """

    def __init__(self, database: Database, worker: Worker, metrics: Metrics, most_waiting: int) -> None:
        self._database = database
        self._metrics = metrics
        self._most_waiting = most_waiting
        self._worker = worker
        self._waiting: list[tuple[Operation, asyncio.Future[Any]]] = []
        self._busy = False
        self._wanted = 1  # size at which the next group begins
        self._gathering: asyncio.TimerHandle | None = None
        self._deadline = 0.0  # of gathering

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
            self._metrics.normalizer_errors.labels("overloaded").inc()
            raise OverloadedError(
                f"{self._most_waiting} calls wait for the normalizers' state already, which is the limit",
                retry_after_ms=RETRY_AFTER_MS,
            )
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, future))
        self._begin_if_enough()
        return await future

    async def close(self) -> None:
        """Ends the thread; what was begun is finished."""
        await self._worker.call(self._database.close)
        await self._worker.close()

    def _begin_if_enough(self) -> None:
        if not self._busy and len(self._waiting) >= self._wanted:
            self._begin()

    def _begin(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
        waiting = [one for one in self._waiting if not one[1].done()]
        group, self._waiting = waiting[:MOST_IN_GROUP], waiting[MOST_IN_GROUP:]
        self._wanted = 1
        if not group:
            return
        self._busy = True
        operations = [operation for operation, _ in group]
        futures = [future for _, future in group]
        started = now()

        def done(outcomes: Any, error: BaseException | None) -> None:
            self._metrics.normalizer_group_seconds.observe(now() - started)
            self._count_errors(outcomes if error is None else [error])
            for future, outcome in zip(futures, outcomes if error is None else [error] * len(futures), strict=True):
                _settle(future, outcome)
            self._busy = False
            self._gather(len(group) + len(self._waiting))

        self._worker.run(lambda: self._database.carry_out(operations), done)

    def _count_errors(self, outcomes: Sequence[Any]) -> None:
        """Counts those that the state is to blame for; of a group either all or none, unless an operation alone is."""
        for kind, several in Counter(type(outcome) for outcome in outcomes if isinstance(outcome, StateError)).items():
            reason = "full" if issubclass(kind, StateFullError) else "unavailable"
            self._metrics.normalizer_errors.labels(reason).inc(several)

    def _gather(self, wanted: int) -> None:
        self._wanted = wanted
        self._deadline = now() + GATHER_SECONDS
        if wanted > 1:
            self._wait_for_more()
        self._begin_if_enough()

    def _wait_for_more(self) -> None:
        loop = asyncio.get_running_loop()
        self._gathering = loop.call_later(GAP_SECONDS, self._after_gap, len(self._waiting))

    def _after_gap(self, before: int) -> None:
        if before < len(self._waiting) and now() < self._deadline:
            self._wait_for_more()
        else:
            self._wanted = 1
            self._begin_if_enough()


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # its caller left
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
