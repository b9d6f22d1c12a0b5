"""What a model's configuration asks of the batcher: priorities, queue policies, delays, order, padding, several instances."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from normserve_proto.tensors import Array
from normserve_server import instance
from normserve_server.batching import Batcher
from normserve_server.calls import Call
from normserve_server.errors import DeadlineExceededError, InternalError, OverloadedError
from normserve_server.instance import Instance, Run
from normserve_server.model_config import Batching, QueuePolicy
from normserve_server.servable import DYNAMIC, Signature, TensorSpec
from normserve_server.statistics import Laps, Statistics
from normserve_server.validation import Work
from normserve_server.workers import Worker
from prometheus_client import CollectorRegistry, Counter, Histogram

LAPS = Laps(0.0, 1.0, 0.0)


def work(row: float, size: int = 1, **more: object) -> Work:
    x = np.full((size, 1), row, np.float32)
    return Work({"x": x}, size, ((1,),), more.pop("timeout_seconds", None), **more)  # type: ignore[arg-type]


class Held:
    """An instance whose runs end when the test says so."""

    device = "cpu"
    down = False

    def __init__(self) -> None:
        self.runs: list[tuple[list[float], Callable[[], None]]] = []
        self.started = asyncio.Event()

    def quick(self, _work: Work) -> bool:
        return False

    def start(self, batch: Sequence[Work], done: Callable[[list[Run]], None]) -> None:
        self.started.set()
        outcomes = [[one.inputs["x"] * 2] for one in batch]
        size = sum(one.size for one in batch)
        self.runs.append(([float(one.inputs["x"][0, 0]) for one in batch], lambda: done([Run(size, LAPS, outcomes)])))

    def finish(self) -> list[float]:
        rows, done = self.runs.pop(0)
        done()
        return rows

    async def close(self) -> None:
        pass


def batcher(*instances: object, max_batch_size: int = 4, statistics: Statistics | None = None, **batching: object) -> Batcher:
    sizes = Histogram("sizes", "of batches", registry=CollectorRegistry())
    return Batcher(
        instances,  # type: ignore[arg-type]
        max_batch_size=max_batch_size,
        max_queue_size=8,
        batch_sizes=sizes,
        batching=Batching(**batching),  # type: ignore[arg-type]
        statistics=statistics,
    )


async def submitted(one: Batcher, *works: Work) -> list[asyncio.Task[Sequence[Array]]]:
    tasks = [asyncio.create_task(one.submit(item, Call("ModelInfer"))) for item in works]
    await asyncio.sleep(0)
    return tasks


async def test_a_higher_priority_runs_first_and_a_level_that_is_none_is_the_default() -> None:
    held = Held()
    one = batcher(held, max_batch_size=1, priority_levels=3, default_priority=2)
    rows = [work(0), work(3, priority=3), work(2), work(1, priority=1), work(9, priority=9)]
    await submitted(one, *rows)
    assert [held.finish()[0] for _ in rows] == [0, 1, 2, 9, 3]


async def test_priorities_mean_nothing_to_a_model_without_levels() -> None:
    held = Held()
    one = batcher(held, max_batch_size=1)
    await submitted(one, work(0), work(2, priority=2), work(1, priority=1))
    assert [held.finish()[0] for _ in range(3)] == [0, 2, 1]


async def test_each_priority_has_its_own_limit() -> None:
    held = Held()
    one = batcher(held, priority_levels=2, default_priority=2, policies={1: QueuePolicy(max_queue_size=1)})
    await submitted(one, work(0), work(1, priority=1), work(2))
    with pytest.raises(OverloadedError, match="1 requests wait already"):
        await one.submit(work(3, priority=1), Call("ModelInfer"))
    (task,) = await submitted(one, work(4))
    assert not task.done()


async def test_a_queue_is_as_full_as_the_limit_that_is_nearest() -> None:
    held = Held()
    one = batcher(
        held, priority_levels=2, default_priority=2, policy=QueuePolicy(max_queue_size=4), policies={1: QueuePolicy()}
    )
    assert one.queue().fullness == 0
    await submitted(one, *(work(row) for row in range(4)))  # the first one runs
    assert one.queue().fullness == 3 / 4
    await submitted(one, work(4))
    assert one.queue().fullness == 1
    with pytest.raises(OverloadedError):
        await one.submit(work(5), Call("ModelInfer"))
    held.finish()  # and all four run
    await submitted(one, *(work(row, priority=1) for row in range(6)))
    assert one.queue().fullness == 6 / 8  # of all


async def test_a_queue_timeout_ends_the_wait_although_no_instance_is_free() -> None:
    held = Held()
    one = batcher(held, policy=QueuePolicy(timeout_seconds=0.01))
    await submitted(one, work(0))
    with pytest.raises(DeadlineExceededError):
        await one.submit(work(1), Call("ModelInfer"))
    assert held.finish() == [0]
    assert not held.runs


async def test_a_request_may_choose_its_timeout_only_where_it_is_allowed_to() -> None:
    held = Held()
    one = batcher(held, policy=QueuePolicy(timeout_seconds=0.01, timeout_override=False))
    await submitted(one, work(0))
    with pytest.raises(DeadlineExceededError):
        await one.submit(work(1, timeout_seconds=60.0), Call("ModelInfer"))


async def test_who_is_delayed_runs_behind_all_others() -> None:
    held = Held()
    one = batcher(held, max_batch_size=1, policy=QueuePolicy(timeout_seconds=0.01, delay_expired=True))
    await submitted(one, work(0), work(1))
    await asyncio.sleep(0.02)
    await submitted(one, work(2))
    assert [held.finish()[0] for _ in range(3)] == [0, 2, 1]


async def test_a_batch_runs_once_its_delay_is_over_or_it_is_full() -> None:
    held = Held()
    one = batcher(held, max_delay_seconds=60.0)
    tasks = await submitted(one, work(0), work(1))
    assert not held.runs
    tasks += await submitted(one, work(2, size=2))
    assert held.finish() == [0, 1, 2]
    await asyncio.gather(*tasks)
    held.started.clear()
    short = batcher(held, max_delay_seconds=0.001)
    (task,) = await submitted(short, work(5))
    await held.started.wait()
    held.finish()
    assert (await task)[0].item() == 10.0


async def test_closing_waits_for_nobodys_company() -> None:
    held = Held()
    one = batcher(held, max_delay_seconds=60.0)
    (task,) = await submitted(one, work(0))
    closing = asyncio.create_task(one.close())
    await asyncio.sleep(0)
    held.finish()
    await closing
    assert (await task)[0].item() == 0.0


@pytest.mark.parametrize("ordered", [True, False])
async def test_answers_leave_in_order_where_that_is_asked_for(ordered: bool) -> None:
    first, second = Held(), Held()
    one = batcher(first, second, max_batch_size=1, preserve_ordering=ordered)
    tasks = await submitted(one, work(0), work(1))
    early, late = (first, second) if first.runs[0][0] == [1] else (second, first)
    early.finish()
    await asyncio.sleep(0)
    assert tasks[1].done() is not ordered
    late.finish()
    await asyncio.gather(*tasks)


async def test_all_instances_work_at_a_time() -> None:
    first, second = Held(), Held()
    one = batcher(first, second, max_batch_size=1)
    await submitted(one, work(0), work(1), work(2))
    assert len(first.runs) == len(second.runs) == 1
    first.finish()
    assert len(first.runs) == 1


class Doubler:
    """A servable that doubles, and remembers what it ran."""

    def __init__(self) -> None:
        spec = TensorSpec("x", "FP32", (DYNAMIC, 1))
        self.signature = Signature((spec,), (spec,), 8)
        self.provider = "none"
        self.seen: list[list[float]] = []
        self.fails = threading.Event()

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        self.seen.append(inputs["x"][:, 0].tolist())
        if self.fails.is_set():
            raise InternalError("broken")
        return [inputs["x"] * 2]


async def test_a_batch_is_padded_to_the_next_bucket_and_the_padding_is_cut_off() -> None:
    doubler = Doubler()
    one = batcher(Instance(doubler, Worker("test"), buckets=(1, 4, 8)), max_batch_size=8)
    (output,) = await one.submit(work(3, size=2), Call("ModelInfer"))
    (full,) = await one.submit(work(1, size=8), Call("ModelInfer"))
    await one.close()
    assert doubler.seen[0] == [3, 3, 3, 3]
    assert output.tolist() == [[6.0], [6.0]]
    assert full.shape == (8, 1)


async def test_padding_is_counted() -> None:
    registry = CollectorRegistry()
    padding, sizes = Counter("padding", "of batches", registry=registry), Histogram("sizes", "of batches", registry=registry)
    instance = Instance(Doubler(), Worker("test"), buckets=(1, 4, 8))
    one = Batcher([instance], max_batch_size=8, max_queue_size=9, batch_sizes=sizes, padding=padding)
    for size in (3, 4, 6, 8):
        await one.submit(work(1, size=size), Call("ModelInfer"))
    await one.close()
    assert registry.get_sample_value("padding_total") == (4 - 3) + (8 - 6)


async def test_runs_are_added_up_by_their_size() -> None:
    doubler, statistics = Doubler(), Statistics()
    one = batcher(Instance(doubler, Worker("test"), buckets=(4,)), statistics=statistics)
    call = Call("ModelInfer")
    await one.submit(work(1, size=3), call)
    doubler.fails.set()
    with pytest.raises(InternalError):
        await one.submit(work(1), Call("ModelInfer"))
    await one.close()
    assert (statistics.executions, list(statistics.batches)) == (1, [3])
    assert call.samples == 3
    assert call.laps is not None
    assert call.laps.infer > 0


SAMPLE = {"x": np.zeros((1, 1), np.float32)}


async def test_a_probe_runs_a_sample_on_every_instance_that_has_not_answered_since_the_last() -> None:
    doubler = Doubler()
    one = batcher(*(Instance(doubler, Worker("test"), sample=SAMPLE) for _ in range(2)))
    await one.probe(10)
    assert doubler.seen == [[0.0], [0.0]]
    await one.submit(work(1), Call("ModelInfer"))
    await one.probe(10)
    assert doubler.seen[2:] == [[1.0], [0.0]]
    doubler.fails.set()
    with pytest.raises(InternalError):
        await one.probe(10)
    await one.close()


class Stuck(Doubler):
    """A servable that answers once the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.started = threading.Event()

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        self.started.set()
        assert self.go.wait(60)
        return super().run(inputs)


async def test_a_busy_instance_is_judged_by_how_long_its_run_lasts() -> None:
    stuck = Stuck()
    one = batcher(Instance(stuck, Worker("test"), sample=SAMPLE))
    running = asyncio.create_task(one.submit(work(1), Call("ModelInfer")))
    await asyncio.to_thread(stuck.started.wait)
    await one.probe(60)
    with pytest.raises(TimeoutError):
        await one.probe(0)
    stuck.go.set()
    await running
    await one.probe(60)
    await one.close()


async def test_an_early_answer_of_the_loop_does_not_overtake_where_order_is_asked_for() -> None:
    stuck, quick = Stuck(), Doubler()
    instances = [Instance(quick, Worker("quick"), run_seconds=1e-9), Instance(stuck, Worker("stuck"))]
    one = batcher(*instances, preserve_ordering=True)
    slow = asyncio.create_task(one.submit(work(1), Call("ModelInfer")))
    await asyncio.to_thread(stuck.started.wait)
    (early,) = await submitted(one, work(2))
    while not quick.seen:  # noqa: ASYNC110 - a servable is not a coroutine's
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    assert not early.done()
    stuck.go.set()
    await asyncio.gather(slow, early)
    await one.close()


async def test_a_model_that_was_long_twice_does_not_run_on_the_loop_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    moment = 100.0  # a clock of its own: the system may hold up any run for long
    monkeypatch.setattr(instance, "now", lambda: moment)

    class Moody(Doubler):
        def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
            nonlocal moment
            threads.append(threading.get_ident())
            moment += 0.02 if inputs["x"][0, 0] == 7 else 1e-6
            return super().run(inputs)

    one = batcher(Instance(Moody(), Worker("test"), run_seconds=1e-9))
    for row in (1, 7, 1, 7, 1):
        await one.submit(work(row), Call("ModelInfer"))
    await one.close()
    assert [thread == threading.get_ident() for thread in threads] == [True, True, True, True, False]


async def test_a_request_is_forgotten_with_its_answer_although_its_timeout_is_years() -> None:
    one = batcher(Instance(Doubler(), Worker("test")))
    request = work(1, timeout_seconds=1e8)
    seen = weakref.ref(request.inputs["x"])
    await one.submit(request, Call("ModelInfer"))
    del request
    await one.close()  # the thread has told of its run before it lets go of it
    gc.collect()
    assert seen() is None
