"""The queues of one version and the instances that they feed.

What runs next is decided in `scheduling`; this carries it out. It lives on the event loop, which owns all queues, so nothing
here is locked. As soon as an instance is free it takes what waits.
"""

import asyncio
import bisect
import operator
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from normserve_proto.tensors import Array
from prometheus_client import Counter, Histogram

from normserve_server.balancing import Free, Load
from normserve_server.calls import Batch, Call, now
from normserve_server.errors import DeadlineExceededError, OverloadedError, QueueTimeoutError, UnavailableError
from normserve_server.instance import Instance, Run
from normserve_server.metrics import Queue
from normserve_server.model_config import Batching, QueuePolicy
from normserve_server.scheduling import Pending, Rules, ShapeKey, decide
from normserve_server.statistics import Statistics
from normserve_server.validation import Work

RETRY_AFTER_MS = 50


@dataclass(slots=True, eq=False)
class Started:
    """A batch that runs.

    Attributes:
        batch: its members.
        runs: what came out; None while it runs.
    """

    batch: list[Pending]
    runs: list[Run] | None = None


class Batcher:
    """The queues of one version, and the instances that they feed.

    Args:
        instances: at least one.
        max_batch_size: most samples in a batch; 0 for one request at a time.
        max_queue_size: most requests that wait; the next one is refused.
        batch_sizes: records how many samples ran together.
        batching: how batches are cut.
        statistics: adds up what ran.
        padding: counts samples that ran only to fill a bucket; None for nowhere.
        load: what the devices do for all versions; None where there is only this one.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        *,
        max_batch_size: int,
        max_queue_size: int,
        batch_sizes: Histogram,
        batching: Batching = Batching(),  # noqa: B008 - it cannot change
        statistics: Statistics | None = None,
        padding: Counter | None = None,
        load: Load | None = None,
    ) -> None:
        self._instances = instances
        self._free = Free(instances, Load() if load is None else load)
        self._queues: dict[ShapeKey, list[Pending]] = {}
        self._started: deque[Started] = deque()
        self._arrivals = 0
        self._rules = Rules(max_batch_size, batching.preferred_sizes, batching.max_delay_seconds)
        self._batching = batching
        self._max_queue_size = max_queue_size
        self._batch_sizes = batch_sizes
        self._statistics = statistics or Statistics()
        self._padding = padding
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    async def submit(self, work: Work, call: Call) -> Sequence[Array]:
        """Runs a request, alone or in company, and notes in `call` how long it queued and computed.

        Returns:
            All outputs of the model, in its order, with the request's own samples.

        Raises:
            OverloadedError: the queue is full.
            DeadlineExceededError: its time was over before an instance was free.
            UnavailableError: the version is unloading.
            ServiceError: the model failed on it.
        """
        outputs = self.run_now(work, call)
        if outputs is not None:
            return outputs
        pending = self._enqueue(work, call)
        self._feed()
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._forget(pending)
            raise
        finally:
            if pending.alarm is not None:
                pending.alarm.cancel()  # or it would keep the request, which its sender may let wait for years
            call.lap_at("queue", pending.began or now())  # it may never have begun
            if pending.began:
                call.lap("compute")
                call.samples, call.laps, call.batch = work.size, pending.laps, pending.batch

    def run_now(self, work: Work, call: Call) -> Sequence[Array] | None:
        """Runs a request here on the loop, where that spares it a thread's way there and back, and holds nobody up.

        Returns:
            As `submit`; None where it has to be submitted.

        Raises:
            UnavailableError: the version is unloading.
            ServiceError: the model failed on it.
        """
        if self._closed:
            raise UnavailableError(f"model '{call.model}' version {call.version} is unloading")
        instance = self._free.next()
        if instance is None or self._queues or not self._runs_alone(work) or not instance.quick(work):
            return None
        call.lap("queue")
        call.samples, call.ran_alone = work.size, True
        try:
            outputs, call.laps = instance.run_alone(work)
        finally:
            call.lap("compute")
        return outputs

    async def probe(self, timeout_seconds: float) -> None:
        """Finds out whether every instance works, but for those that are down while another is not; see `Instance.probe`.

        Raises:
            ServiceError: one failed.
            TimeoutError: one did not answer in time.
        """
        probes = (instance.probe(timeout_seconds) for instance in self._instances)
        outcomes = await asyncio.gather(*probes, return_exceptions=True)
        self._feed()  # one that was down may be up
        all_down = all(instance.down for instance in self._instances)
        for instance, outcome in zip(self._instances, outcomes, strict=True):
            if isinstance(outcome, BaseException) and (all_down or not instance.down):
                raise outcome

    def queue(self) -> Queue:
        """Looks at what waits now."""
        waiting = [pending for queue in self._queues.values() for pending in queue]
        oldest = now() - min(pending.queued for pending in waiting) if waiting else 0.0
        return Queue(len(waiting), oldest, self._fullness(waiting))

    async def close(self) -> None:
        """Takes nothing more, finishes what waits and runs, and ends the instances."""
        self._closed = True
        self._rules = replace(self._rules, max_delay_seconds=0.0)  # nobody will keep them company
        self._feed()
        await self._at_rest.wait()
        for instance in self._instances:
            await instance.close()

    def _runs_alone(self, work: Work) -> bool:
        """Whether it would wait neither for company nor, where answers keep their order, for others' answers."""
        return not self._started and (not self._rules.max_delay_seconds or work.size == self._rules.max_batch_size)

    def _enqueue(self, work: Work, call: Call) -> Pending:
        priority = self._priority(work)
        policy = self._policy(priority)
        self._check_room(priority, policy, call)
        self._arrivals += 1
        loop, moment = asyncio.get_running_loop(), now()
        pending = Pending(work, loop.create_future(), moment, (priority, False, self._arrivals), call.deadline)
        timeout = _timeout(work, policy)
        if timeout is not None:
            pending.times_out, pending.delays = moment + timeout, policy.delay_expired
            pending.alarm = loop.call_later(timeout, self._time_out, pending)
        self._put(pending)
        return pending

    def _priority(self, work: Work) -> int:
        """As Triton takes it: what is not one of the levels is the default."""
        return work.priority if 0 < work.priority <= self._batching.priority_levels else self._batching.default_priority

    def _policy(self, priority: int) -> QueuePolicy:
        return self._batching.policies.get(priority, self._batching.policy)

    def _fullness(self, waiting: Sequence[Pending]) -> float:
        """How much is taken of the room of all, or of one priority's where that is more."""
        shares = [len(waiting) / self._max_queue_size]
        priorities = [pending.order[0] for pending in waiting]
        for priority in set(priorities):
            limit = self._policy(priority).max_queue_size
            if limit is not None:
                shares.append(priorities.count(priority) / limit)
        return max(shares)

    def _check_room(self, priority: int, policy: QueuePolicy, call: Call) -> None:
        waiting, limit = sum(map(len, self._queues.values())), self._max_queue_size
        if policy.max_queue_size is not None and waiting < limit:
            waiting = sum(pending.order[0] == priority for queue in self._queues.values() for pending in queue)
            limit = policy.max_queue_size
        if waiting >= limit:
            raise OverloadedError(
                f"model '{call.model}': {waiting} requests wait already, which is the limit", retry_after_ms=RETRY_AFTER_MS
            )

    def _put(self, pending: Pending) -> None:
        bisect.insort(self._queues.setdefault(pending.work.shape_key, []), pending, key=_order)
        self._at_rest.clear()

    def _take(self, pending: Pending) -> bool:
        """Takes a request out of its queue; tells whether it was there."""
        shape = pending.work.shape_key
        queue = self._queues.get(shape, [])
        self._keep(shape, [other for other in queue if other is not pending])
        return len(queue) > len(self._queues.get(shape, ()))

    def _keep(self, shape: ShapeKey, remaining: list[Pending]) -> None:
        """Makes `remaining` what a queue holds."""
        if remaining:
            self._queues[shape] = remaining
        else:
            self._queues.pop(shape, None)

    def _forget(self, pending: Pending) -> None:
        """Takes a caller who left out of the queue, and what it sent out of memory."""
        if not pending.began and self._take(pending):
            self._feed()

    def _time_out(self, pending: Pending) -> None:
        """Ends a request's stay in the queue although no instance is free to notice."""
        if pending.began or pending.times_out is None or not self._take(pending):
            return
        if pending.delays:
            pending.send_to_the_back()
            self._put(pending)
        else:
            _dismiss(pending, now())
        self._feed()

    def _feed(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._queues and self._alarm is None and (instance := self._free.next()) is not None:
            self._feed_one(instance)
        if not self._queues and self._free.all:
            self._at_rest.set()

    def _feed_one(self, instance: Instance) -> None:
        """Carries out one decision, for an instance that is free."""
        moment = now()
        decision = decide(self._queues, moment, self._rules)
        for shape, remaining in decision.remaining.items():
            self._keep(shape, remaining)
        for pending in decision.expired:
            _dismiss(pending, moment)
        for pending in decision.delayed:
            pending.send_to_the_back()
            self._put(pending)
        if decision.batch:
            self._free.take(instance)
            self._start(instance, decision.batch, moment)
        elif decision.wake is not None:
            self._alarm = asyncio.get_running_loop().call_later(decision.wake - moment, self._feed)

    def _start(self, instance: Instance, batch: list[Pending], moment: float) -> None:
        together = Batch(len(batch), moment) if len(batch) > 1 else None
        for pending in batch:
            pending.began, pending.batch = moment, together
        started = Started(batch)
        if self._batching.preserve_ordering:
            self._started.append(started)

        def done(runs: list[Run]) -> None:
            self._free.give_back(instance)
            for run in runs:
                self._note(run)
            started.runs = runs
            if together is not None:
                _end(together, runs)
            self._answer(started)
            self._feed()

        instance.start([pending.work for pending in batch], done)

    def _answer(self, started: Started) -> None:
        if not self._batching.preserve_ordering:
            _settle(started)
            return
        while self._started and self._started[0].runs is not None:
            _settle(self._started.popleft())

    def _note(self, run: Run) -> None:
        self._batch_sizes.observe(run.samples)
        if run.padding and self._padding is not None:
            self._padding.inc(run.padding)
        if run.laps is not None:
            self._statistics.executed(run.samples, run.laps)


_order = operator.attrgetter("order")


def _end(batch: Batch, runs: Sequence[Run]) -> None:
    batch.ended, batch.apart = now(), len(runs) > 1
    batch.samples = sum([run.samples for run in runs])


def _settle(started: Started) -> None:
    settled = ((outcome, run.laps) for run in started.runs or () for outcome in run.outcomes)
    for pending, (outcome, laps) in zip(started.batch, settled, strict=True):
        pending.laps = laps
        if pending.future.done():  # its caller left while it ran
            continue
        if isinstance(outcome, BaseException):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)


def _timeout(work: Work, policy: QueuePolicy) -> float | None:
    if work.timeout_seconds is not None and policy.timeout_override:
        return work.timeout_seconds
    return policy.timeout_seconds


def _dismiss(pending: Pending, moment: float) -> None:
    if not pending.future.done():
        too_late = pending.deadline is not None and pending.deadline <= moment
        kind = DeadlineExceededError if too_late else QueueTimeoutError
        waited = f"the request waited {moment - pending.queued:.3f} s in the queue"
        pending.future.set_exception(kind(f"{waited} and its time was over before an instance was free"))
