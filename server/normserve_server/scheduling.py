"""Which of the requests that wait run next, together: decisions over plain data, that neither wait nor change anything.

Requests wait in one queue a shape, because only equal shapes can share a run. A queue is in order: priority first, then
arrival; whoever overstayed a `delay_expired` policy's timeout stands behind the others of its priority. Batches are taken from
the front, so within a queue nobody overtakes.

A batch is ready when it cannot grow (full, or the next one does not fit), when its size is a preferred one, or when its oldest
member has waited for `max_delay_seconds`; without a delay it is ready at once. What the words mean is as in Triton's
ModelDynamicBatching.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from normserve_proto.tensors import Array

from normserve_server.calls import Batch
from normserve_server.statistics import Laps
from normserve_server.validation import Work

ShapeKey: TypeAlias = tuple[tuple[int, ...], ...]
Order: TypeAlias = tuple[int, bool, int]


@dataclass(slots=True, eq=False)
class Pending:
    """A request in the queue.

    Attributes:
        work: what is to be run.
        future: where its outputs, or its error, are awaited.
        queued: when it came, seconds by `calls.now`.
        order: its place in a queue: its priority, whether it was sent to the back, the number of its arrival.
        deadline: when its caller stops waiting; None for never.
        times_out: when it has waited for too long; None for never.
        delays: once it has, it goes to the back instead of being refused.
        alarm: ends its stay when that is over.
        began: when its batch was cut.
        laps: how long the parts of its run took.
        batch: whom it runs with; None where it is alone.
    """

    work: Work
    future: asyncio.Future[Sequence[Array]]
    queued: float
    order: Order
    deadline: float | None = None
    times_out: float | None = None
    delays: bool = False
    alarm: asyncio.TimerHandle | None = None
    began: float = 0.0
    laps: Laps | None = None
    batch: Batch | None = None

    def late(self, moment: float) -> bool:
        """Whether nobody wants its answer any more, or its stay in the queue is over."""
        return _passed(self.deadline, moment) or _passed(self.times_out, moment)

    def send_to_the_back(self) -> None:
        """Puts it behind all others of its priority, for as long as it takes."""
        priority, _, number = self.order
        self.order, self.times_out = (priority, True, number), None


@dataclass(frozen=True, slots=True)
class Rules:
    """What a batch is.

    Attributes:
        max_batch_size: most samples; 0 for one request at a time.
        preferred_sizes: samples, ascending; a batch of such a size is not kept waiting.
        max_delay_seconds: longest wait for company; 0 for none.
    """

    max_batch_size: int
    preferred_sizes: tuple[int, ...] = ()
    max_delay_seconds: float = 0.0


@dataclass(slots=True)
class Decision:
    """What to do now.

    Attributes:
        batch: to run, all of one shape; empty where none is ready.
        expired: to refuse.
        delayed: to put back into their queues, behind the others.
        remaining: what the queues that were looked at hold from now on, without the above and those whose callers left.
        wake: when to decide again if nothing comes until then; None for not before something does.
    """

    batch: list[Pending] = field(default_factory=list)
    expired: list[Pending] = field(default_factory=list)
    delayed: list[Pending] = field(default_factory=list)
    remaining: dict[ShapeKey, list[Pending]] = field(default_factory=dict)
    wake: float | None = None


def decide(queues: Mapping[ShapeKey, Sequence[Pending]], moment: float, rules: Rules) -> Decision:
    """Takes the first batch that is ready, beginning with the queue whose head comes first.

    Args:
        queues: by shape, each in order and not empty.
        moment: now, seconds by `calls.now`.
        rules: what a batch is.
    """
    decision = Decision()
    for shape in sorted(queues, key=lambda shape: queues[shape][0].order) if len(queues) > 1 else queues:
        queue = queues[shape]
        candidates, passed = _candidates(queue, moment, rules, decision)
        count = _ready(candidates, passed < len(queue), moment, rules)
        decision.remaining[shape] = [*candidates[count:], *queue[passed:]]
        if count:
            decision.batch = candidates[:count]
            return decision
        if candidates:
            wake = _oldest(candidates) + rules.max_delay_seconds
            decision.wake = wake if decision.wake is None else min(wake, decision.wake)
    return decision


def _candidates(queue: Sequence[Pending], moment: float, rules: Rules, decision: Decision) -> tuple[list[Pending], int]:
    """As many from the front as fit together, and how far that went; notes in `decision` who is late."""
    candidates: list[Pending] = []
    room = rules.max_batch_size or 1
    for passed, pending in enumerate(queue):
        if pending.future.done():
            continue
        if pending.late(moment):
            again = pending.delays and not _passed(pending.deadline, moment)
            (decision.delayed if again else decision.expired).append(pending)
            continue
        if candidates and pending.work.size > room:
            return candidates, passed
        candidates.append(pending)
        room -= pending.work.size if rules.max_batch_size else 1
    return candidates, len(queue)


def _ready(candidates: Sequence[Pending], more_wait: bool, moment: float, rules: Rules) -> int:
    """How many of the candidates are to run now."""
    if not candidates:
        return 0
    over = rules.max_delay_seconds > 0 and _oldest(candidates) + rules.max_delay_seconds <= moment
    if over or not rules.max_batch_size:
        return len(candidates)
    sizes = list(itertools.accumulate(pending.work.size for pending in candidates))
    preferred = [count for count, size in enumerate(sizes, 1) if size in rules.preferred_sizes]
    if preferred:
        return preferred[-1]
    waits = rules.max_delay_seconds > 0 and not more_wait and sizes[-1] < rules.max_batch_size
    return 0 if waits else len(candidates)


def _oldest(candidates: Sequence[Pending]) -> float:
    return min(pending.queued for pending in candidates)


def _passed(limit: float | None, moment: float) -> bool:
    return limit is not None and limit <= moment
