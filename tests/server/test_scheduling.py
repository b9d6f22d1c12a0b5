"""`decide` as the pure function it is."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normserve_server.scheduling import Decision, Pending, Rules, decide
from normserve_server.validation import Work


class FakeFuture:
    """All that `decide` asks of a future."""

    def __init__(self, done: bool) -> None:
        self._done = done

    def done(self) -> bool:
        return self._done


def pending(
    size: int = 1, width: int = 1, *, queued: float = 0.0, left: bool = False, number: int = 0, **more: object
) -> Pending:
    work = Work({"x": np.zeros((size, width), np.float32)}, size, ((width,),), None)
    order = (more.pop("priority", 0), False, number)
    return Pending(work, FakeFuture(left), queued, order, **more)  # type: ignore[arg-type]


def queues(waiting: Sequence[Pending]) -> dict[tuple[tuple[int, ...], ...], list[Pending]]:
    """As the batcher keeps them."""
    found: dict[tuple[tuple[int, ...], ...], list[Pending]] = {}
    for one in sorted(waiting, key=lambda one: one.order):
        found.setdefault(one.work.shape_key, []).append(one)
    return found


def remaining(decision: Decision) -> list[Pending]:
    return [one for queue in decision.remaining.values() for one in queue]


def sizes(batch: Sequence[Pending]) -> list[int]:
    return [one.work.size for one in batch]


def test_a_batch_is_taken_from_the_front_until_it_is_full() -> None:
    waiting = [pending(size, number=number) for number, size in enumerate([2, 1, 2, 1])]
    decision = decide(queues(waiting), 0.0, Rules(4))
    # The last one would fit, but it may not overtake the third.
    assert decision.batch == waiting[:2]
    assert remaining(decision) == waiting[2:]


def test_without_batching_requests_run_one_at_a_time() -> None:
    waiting = [pending(number=1), pending(number=2)]
    assert decide(queues(waiting), 0.0, Rules(0)).batch == waiting[:1]


def test_who_left_and_who_is_late_is_not_in_a_batch() -> None:
    gone, late, fine = pending(left=True), pending(deadline=1.0, number=1), pending(deadline=3.0, number=2)
    decision = decide(queues([gone, late, fine]), 2.0, Rules(8))
    assert decision.batch == [fine]
    assert decision.expired == [late]
    assert not remaining(decision)


def test_a_batch_has_one_shape_and_the_oldest_shape_goes_first() -> None:
    a, b, c = pending(width=1, number=2), pending(width=2, number=1), pending(width=1, number=3)
    waiting = dict(reversed(queues([a, b, c]).items()))
    decision = decide(waiting, 0.0, Rules(8))
    assert decision.batch == [b]
    assert list(decision.remaining) == [((2,),)]  # the other queue stays as it is
    del waiting[(2,),]
    assert decide(waiting, 0.0, Rules(8)).batch == [a, c]


def test_priority_goes_before_arrival() -> None:
    low, high = pending(priority=2, number=1), pending(priority=1, number=2)
    assert decide(queues([low, high]), 0.0, Rules(1)).batch == [high]


def test_a_batch_waits_for_company_until_the_oldest_member_has_waited_for_long_enough() -> None:
    rules = Rules(4, max_delay_seconds=0.5)
    waiting = queues([pending(queued=1.0), pending(queued=1.2, number=1)])
    early = decide(waiting, 1.4, rules)
    assert (early.batch, early.wake) == ([], 1.5)
    assert remaining(early) == waiting[(1,),]
    assert decide(waiting, 1.5, rules).batch == waiting[(1,),]


@pytest.mark.parametrize("last", [2, 3])
def test_a_batch_that_cannot_grow_does_not_wait(last: int) -> None:
    waiting = [pending(2, queued=1.0), pending(last, queued=1.0, number=1)]
    batch = decide(queues(waiting), 1.0, Rules(4, max_delay_seconds=9.0)).batch
    assert batch == waiting[: 2 if last == 2 else 1]


def test_a_shape_that_is_ready_does_not_wait_for_an_older_one_that_is_not() -> None:
    old, young = pending(1, width=1), pending(4, width=2, number=1)
    assert decide(queues([old, young]), 0.1, Rules(4, max_delay_seconds=9.0)).batch == [young]


def test_a_preferred_size_is_taken_at_once_and_the_rest_goes_on_waiting() -> None:
    waiting = [pending(number=number, queued=1.0) for number in range(7)]
    rules = Rules(16, preferred_sizes=(2, 4, 8), max_delay_seconds=1.0)
    decision = decide(queues(waiting), 1.0, rules)
    assert decision.batch == waiting[:4]
    assert remaining(decision) == waiting[4:]
    assert decide(queues(waiting), 2.0, rules).batch == waiting  # they have waited: all go


def test_without_a_delay_what_is_no_preferred_size_goes_too() -> None:
    waiting = [pending(number=number) for number in range(3)]
    rules = Rules(8, preferred_sizes=(2, 4))
    assert sizes(decide(queues(waiting), 0.0, rules).batch) == [1, 1]
    assert decide(queues(waiting[2:]), 0.0, rules).batch == waiting[2:]


def test_who_may_be_delayed_is_not_refused_unless_its_caller_is_gone() -> None:
    delayed = pending(times_out=1.0, delays=True)
    refused = pending(times_out=1.0, deadline=1.5, delays=True, number=1)
    decision = decide(queues([delayed, refused]), 2.0, Rules(4))
    assert (decision.delayed, decision.expired, decision.batch) == ([delayed], [refused], [])
    delayed.send_to_the_back()
    young, low = pending(number=9), pending(number=9, priority=1)
    assert decide(queues([delayed, young]), 3.0, Rules(1)).batch == [young]
    assert decide(queues([low, delayed]), 3.0, Rules(1)).batch == [delayed]
    assert decide(queues([delayed]), 3.0, Rules(1)).batch == [delayed]


@st.composite
def waiting_requests(draw: st.DrawFn) -> list[Pending]:
    return [
        pending(
            draw(st.integers(1, 5)),
            draw(st.integers(1, 3)),
            number=number,
            queued=draw(st.floats(0, 1)),
            left=draw(st.booleans()),
            priority=draw(st.integers(0, 2)),
            deadline=draw(st.none() | st.floats(0, 2)),
            times_out=draw(st.none() | st.floats(0, 2)),
            delays=draw(st.booleans()),
        )
        for number in range(draw(st.integers(1, 12)))
    ]


@given(
    waiting_requests(),
    st.integers(0, 6),
    st.sampled_from([(), (1,), (2, 4), (3,)]),
    st.sampled_from([0.0, 0.5, 5.0]),
)
def test_nobody_is_lost_and_nobody_overtakes(
    waiting: list[Pending], limit: int, preferred: tuple[int, ...], delay: float
) -> None:
    before = queues(waiting)
    decision = decide(before, 1.0, Rules(limit, preferred, delay))
    seen = [one for shape in decision.remaining for one in before[shape] if not one.future.done()]
    parts = [
        *decision.batch,
        *decision.expired,
        *decision.delayed,
        *(one for one in remaining(decision) if not one.future.done()),
    ]
    assert sorted(map(id, parts)) == sorted(map(id, seen))
    assert all(one.late(1.0) for one in (*decision.expired, *decision.delayed))
    assert not any(one.late(1.0) for one in decision.batch)
    assert len({one.work.shape_key for one in decision.batch}) <= 1
    assert len(decision.batch) <= 1 or sum(sizes(decision.batch)) <= limit
    for one in remaining(decision):
        if decision.batch and one.work.shape_key == decision.batch[0].work.shape_key and not one.late(1.0):
            assert one.future.done() or one.order > decision.batch[-1].order
    if not decision.batch and not delay:
        assert not [one for one in remaining(decision) if not one.future.done()]
