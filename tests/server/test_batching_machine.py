"""The batcher held against a simple model, through any sequence of arrivals, departures, passing time and finished runs."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from held_instance import BAD, HeldInstance
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from normserve_server import batching
from normserve_server.batching import Batcher
from normserve_server.calls import Call
from normserve_server.errors import DeadlineExceededError, InternalError, OverloadedError
from normserve_server.model_config import Batching, QueuePolicy
from normserve_server.validation import Work
from prometheus_client import CollectorRegistry, Histogram

LIMIT, QUEUE, LEVELS = 4, 6, 2


class Request:
    """What the model knows of one request."""

    def __init__(self, work: Work, priority: int, deadline: float | None, task: asyncio.Task) -> None:
        self.work, self.priority, self.deadline, self.task = work, priority, deadline, task
        self.cancelled = False
        self.ran = 0


class BatcherMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = 1.0
        self.patch.setattr(batching, "now", lambda: self.clock)
        self.loop = asyncio.new_event_loop()
        self.instances = [HeldInstance("cuda:0"), HeldInstance("cuda:0"), HeldInstance("cuda:1")]
        self.requests: list[Request] = []
        self.rows = 0
        sizes = Histogram("sizes", "of batches", registry=CollectorRegistry())
        policies = {2: QueuePolicy(max_queue_size=3)}
        rules = Batching(priority_levels=LEVELS, default_priority=2, policies=policies, preferred_sizes=(2,))
        self.batcher = Batcher(self.instances, max_batch_size=LIMIT, max_queue_size=QUEUE, batch_sizes=sizes, batching=rules)

    def step(self) -> None:
        """Lets everything happen that can happen without time passing."""
        for _ in range(5):
            self.loop.run_until_complete(asyncio.sleep(0))
        self.note_batches()

    def note_batches(self) -> None:
        for instance in self.instances:
            for work in instance.batch:
                request = next(one for one in self.requests if one.work is work)
                if not request.ran:
                    self.check_order(request, instance.batch)
                request.ran = 1

    def check_order(self, started: Request, batch: Sequence[Work]) -> None:
        """Nobody of its shape and of its priority, or of a higher one, who came before it still waits."""
        assert not started.cancelled
        assert started.deadline is None or started.deadline > self.clock
        position = self.requests.index(started)
        for index, other in enumerate(self.requests):
            waits = not other.ran and not other.task.done() and not any(other.work is one for one in batch)
            if not waits or other.work.shape_key != started.work.shape_key:
                continue
            assert (other.priority, index) > (started.priority, position), "overtaken"

    @rule(size=st.integers(1, LIMIT), width=st.integers(1, 2), priority=st.integers(0, 3), bad=st.booleans(),
          lives=st.none() | st.integers(1, 3))  # fmt: skip
    def arrives(self, size: int, width: int, priority: int, bad: bool, lives: int | None) -> None:
        self.rows += 1
        x = np.full((size, width), BAD if bad else float(self.rows), np.float32)
        work = Work({"x": x}, size, ((width,),), None, priority)
        deadline = None if lives is None else self.clock + lives
        task = self.loop.create_task(self.batcher.submit(work, Call("ModelInfer", deadline)))
        self.requests.append(Request(work, priority if 0 < priority <= LEVELS else 2, deadline, task))
        self.step()

    @precondition(lambda self: any(not one.task.done() for one in self.requests))
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([one for one in self.requests if not one.task.done()]))
        request.cancelled = True
        request.task.cancel()
        self.step()

    @precondition(lambda self: any(instance.batch for instance in self.instances))
    @rule(data=st.data())
    def finishes(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([one for one in self.instances if one.batch])).finish()
        self.step()

    @rule(seconds=st.integers(1, 2))
    def time_passes(self, seconds: int) -> None:
        self.clock += seconds

    @invariant()
    def no_instance_idles_while_somebody_waits(self) -> None:
        if any(not instance.batch for instance in self.instances):
            assert all(one.task.done() or one.ran for one in self.requests)

    @invariant()
    def batches_fit(self) -> None:
        for instance in self.instances:
            assert sum(work.size for work in instance.batch) <= LIMIT
            assert len({work.shape_key for work in instance.batch}) <= 1

    def teardown(self) -> None:
        closing = self.loop.create_task(self.batcher.close())
        while not closing.done():
            self.step()
            for instance in self.instances:
                if instance.batch:
                    instance.finish()
        for request in self.requests:
            self.check_answer(request)
        self.loop.close()
        self.patch.undo()

    def check_answer(self, request: Request) -> None:
        """Everybody has exactly one answer, and it is theirs."""
        assert request.task.done(), "lost"
        if request.cancelled:
            assert request.task.cancelled()
            return
        error = request.task.exception()
        if error is None:
            assert request.ran
            np.testing.assert_array_equal(request.task.result()[0], request.work.inputs["x"] * 2)
        elif isinstance(error, InternalError):
            assert request.ran
            assert request.work.inputs["x"][0, 0] == BAD
        else:
            assert not request.ran
            assert isinstance(error, OverloadedError | DeadlineExceededError)
            assert isinstance(error, OverloadedError) or request.deadline is not None


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
