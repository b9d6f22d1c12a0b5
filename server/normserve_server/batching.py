"""Requests that wait, and the batches that are cut from them.

The decisions are `cut`, a pure function over plain data. The `Batcher` around it lives on the event loop, which owns all
queues, so nothing here is locked. As soon as an instance is free it takes what waits; nobody waits for company.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from normserve_proto.tensors import Array
from prometheus_client import Histogram

from normserve_server.calls import Call, now
from normserve_server.errors import OverloadedError, QueueTimeoutError, UnavailableError
from normserve_server.instance import Instance, Outcome
from normserve_server.validation import Work

RETRY_AFTER_MS = 50


@dataclass(slots=True, eq=False)
class Pending:
    """A request in the queue.

    Attributes:
        work: what is to be run.
        future: where its outputs, or its error, are awaited.
        queued: when it came, seconds by `calls.now`.
        expires: when nobody wants the answer any more; None for never.
        began: when its batch was cut.
    """

    work: Work
    future: asyncio.Future[Sequence[Array]]
    queued: float
    expires: float | None = None
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class Cut:
    """What `cut` decided: the batch to run, those whose time is over, and those who go on waiting, in order."""

    batch: list[Pending]
    expired: list[Pending]
    waiting: deque[Pending]


def cut(queue: deque[Pending], moment: float, max_batch_size: int) -> Cut:
    """Takes the next batch from a queue: the first request that is still wanted, and those behind it that fit beside it.

    Args:
        queue: requests in the order they came.
        moment: now; a request whose `expires` is not later is expired.
        max_batch_size: most samples in a batch; 0 for one request at a time.

    Returns:
        The parts. A cancelled request is in none of them. Within one shape nobody overtakes: once a request of the batch's
        shape does not fit, those of its shape behind it wait too.
    """
    batch: list[Pending] = []
    expired: list[Pending] = []
    waiting: deque[Pending] = deque()
    room = max(max_batch_size, 1)
    for pending in queue:
        if pending.future.done():
            continue
        if pending.expires is not None and pending.expires <= moment:
            expired.append(pending)
        elif not batch or (max_batch_size and pending.work.size <= room and _same_shape(pending, batch[0])):
            batch.append(pending)
            room -= pending.work.size
        else:
            waiting.append(pending)
            room = 0 if _same_shape(pending, batch[0]) else room
    return Cut(batch, expired, waiting)


def _same_shape(one: Pending, other: Pending) -> bool:
    return one.work.shape_key == other.work.shape_key


class Batcher:
    """The queue of one version, and the instances that it feeds.

    Args:
        instances: at least one.
        max_batch_size: most samples in a batch; 0 for one request at a time.
        max_queue_size: most requests that wait; the next one is refused.
        batch_sizes: records how many samples ran together.
    """

    def __init__(
        self, instances: Sequence[Instance], *, max_batch_size: int, max_queue_size: int, batch_sizes: Histogram
    ) -> None:
        self._instances = instances
        self._idle = list(instances)
        self._queue: deque[Pending] = deque()
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._batch_sizes = batch_sizes
        self._closed = False
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    async def submit(self, work: Work, call: Call) -> Sequence[Array]:
        """Runs a request, alone or in company, and notes in `call` how long it queued and computed.

        Returns:
            All outputs of the model, in its order, with the request's own samples.

        Raises:
            OverloadedError: the queue is full.
            QueueTimeoutError: its time was over before an instance was free.
            UnavailableError: the version is unloading.
            ServiceError: the model failed on it.
        """
        if self._closed:
            raise UnavailableError(f"model '{call.model}' version {call.version} is unloading")
        if self._idle and not self._queue and self._idle[-1].quick(work):
            return self._run_here(self._idle[-1], work, call)
        if len(self._queue) >= self._max_queue_size:
            raise OverloadedError(
                f"model '{call.model}': {len(self._queue)} requests wait already, which is the limit",
                retry_after_ms=RETRY_AFTER_MS,
            )
        pending = Pending(work, asyncio.get_running_loop().create_future(), now(), _expires(work, call))
        self._queue.append(pending)
        self._at_rest.clear()
        self._feed()
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._forget(pending)
            raise
        finally:
            if pending.began:
                call.lap_at("queue", pending.began)
                call.lap("compute")

    async def close(self) -> None:
        """Takes nothing more, finishes what waits and runs, and ends the instances."""
        self._closed = True
        await self._at_rest.wait()
        for instance in self._instances:
            await instance.close()

    def _run_here(self, instance: Instance, work: Work, call: Call) -> Sequence[Array]:
        """On the loop, without a hop to a thread and back."""
        call.lap("queue")
        self._batch_sizes.observe(work.size)
        outcome = instance.run([work])[0]
        call.lap("compute")
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _forget(self, pending: Pending) -> None:
        """Takes a caller who left out of the queue, and what it sent out of memory."""
        if not pending.began:
            with contextlib.suppress(ValueError):
                self._queue.remove(pending)
            self._feed()

    def _feed(self) -> None:
        while self._idle and self._queue:
            moment = now()
            decision = cut(self._queue, moment, self._max_batch_size)
            self._queue = decision.waiting
            for pending in decision.expired:
                pending.future.set_exception(QueueTimeoutError(_waited(pending, moment)))
            if decision.batch:
                self._start(self._idle.pop(), decision.batch, moment)
        if not self._queue and len(self._idle) == len(self._instances):
            self._at_rest.set()

    def _start(self, instance: Instance, batch: list[Pending], moment: float) -> None:
        self._batch_sizes.observe(sum(pending.work.size for pending in batch))
        for pending in batch:
            pending.began = moment

        def done(outcomes: list[Outcome]) -> None:
            self._idle.append(instance)
            for pending, outcome in zip(batch, outcomes, strict=True):
                _settle(pending.future, outcome)
            self._feed()

        instance.start([pending.work for pending in batch], done)


def _settle(future: asyncio.Future[Sequence[Array]], outcome: Outcome) -> None:
    if future.done():  # its caller left while it ran
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _expires(work: Work, call: Call) -> float | None:
    timeout = None if work.timeout_seconds is None else now() + work.timeout_seconds
    moments = [moment for moment in (call.deadline, timeout) if moment is not None]
    return min(moments, default=None)


def _waited(pending: Pending, moment: float) -> str:
    return f"the request waited {moment - pending.queued:.3f} s in the queue and its time was over before an instance was free"
