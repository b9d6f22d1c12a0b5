"""The batcher around a servable that the test holds in its hands."""

import asyncio
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from normserve_proto.tensors import Array
from normserve_server.batching import Batcher
from normserve_server.calls import Call, now
from normserve_server.errors import DeadlineExceededError, InternalError, OverloadedError, UnavailableError
from normserve_server.instance import Instance
from normserve_server.servable import DYNAMIC, Signature, TensorSpec
from normserve_server.validation import Work
from normserve_server.workers import Worker
from prometheus_client import CollectorRegistry, Histogram


def work(*rows: float, width: int = 1, timeout: float | None = None) -> Work:
    x = np.repeat(np.array(rows, np.float32)[:, None], width, axis=1)
    return Work({"x": x}, len(rows), ((width,),), timeout)


class Doubler:
    """A servable that doubles, once the test lets it; a negative number is what it cannot bear."""

    def __init__(self) -> None:
        self.signature = Signature((TensorSpec("x", "FP32", (DYNAMIC, 1)),), (TensorSpec("y", "FP32", (DYNAMIC, 1)),), 4)
        self.provider = "none"
        self.go = threading.Event()
        self.started = threading.Event()
        self.batches: list[list[float]] = []

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        self.started.set()
        assert self.go.wait(10)
        self.batches.append(inputs["x"][:, 0].tolist())
        if (inputs["x"] < 0).any():
            raise InternalError("negative")
        return [inputs["x"] * 2]


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
async def batcher(doubler: Doubler):
    sizes = Histogram("sizes", "of batches", registry=CollectorRegistry())
    instance = Instance(doubler, Worker("test"))
    batcher = Batcher([instance], max_batch_size=4, max_queue_size=3, batch_sizes=sizes)
    yield batcher
    doubler.go.set()
    await batcher.close()


def submit(batcher: Batcher, item: Work, deadline: float | None = None) -> asyncio.Task[Sequence[Array]]:
    return asyncio.create_task(batcher.submit(item, Call("ModelInfer", deadline)))


async def busy(batcher: Batcher, doubler: Doubler) -> asyncio.Task[Sequence[Array]]:
    """Occupies the instance, so that what is submitted next has to wait."""
    task = submit(batcher, work(100.0))
    await asyncio.to_thread(doubler.started.wait)
    return task


async def test_those_who_wait_run_together_and_each_gets_its_own(batcher: Batcher, doubler: Doubler) -> None:
    first = await busy(batcher, doubler)
    tasks = [submit(batcher, work(1.0)), submit(batcher, work(2.0, 3.0))]
    await asyncio.sleep(0)
    doubler.go.set()
    outputs = [(await task)[0][:, 0].tolist() for task in (first, *tasks)]
    assert outputs == [[200.0], [2.0], [4.0, 6.0]]
    assert doubler.batches == [[100.0], [1.0, 2.0, 3.0]]


async def test_a_bad_request_does_not_spoil_its_mates(batcher: Batcher, doubler: Doubler) -> None:
    await busy(batcher, doubler)
    good, bad, other = submit(batcher, work(1.0)), submit(batcher, work(-1.0)), submit(batcher, work(3.0))
    await asyncio.sleep(0)
    doubler.go.set()
    assert (await good)[0].item() == 2.0
    assert (await other)[0].item() == 6.0
    with pytest.raises(InternalError, match="negative"):
        await bad


async def test_a_cancelled_caller_neither_runs_nor_delays(batcher: Batcher, doubler: Doubler) -> None:
    await busy(batcher, doubler)
    gone, stays = submit(batcher, work(1.0)), submit(batcher, work(2.0))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    doubler.go.set()
    assert (await stays)[0].item() == 4.0
    assert doubler.batches == [[100.0], [2.0]]


async def test_a_caller_that_leaves_while_it_runs_does_not_hurt_its_mates(batcher: Batcher, doubler: Doubler) -> None:
    running = await busy(batcher, doubler)
    running.cancel()
    await asyncio.sleep(0)
    doubler.go.set()
    assert (await submit(batcher, work(2.0)))[0].item() == 4.0


async def test_a_deadline_is_read_when_the_batch_is_cut(batcher: Batcher, doubler: Doubler) -> None:
    await busy(batcher, doubler)
    late, timed_out = submit(batcher, work(1.0), deadline=now()), submit(batcher, work(2.0, timeout=1e-6))
    fine = submit(batcher, work(3.0), deadline=now() + 60)
    await asyncio.sleep(0)
    doubler.go.set()
    assert (await fine)[0].item() == 6.0
    for task in (late, timed_out):
        with pytest.raises(DeadlineExceededError, match="waited"):
            await task
    assert doubler.batches == [[100.0], [3.0]]


async def test_whoever_waits_in_vain_has_been_in_the_queue_until_then(batcher: Batcher, doubler: Doubler) -> None:
    running = await busy(batcher, doubler)
    late, gone = Call("ModelInfer"), Call("ModelInfer")
    with pytest.raises(DeadlineExceededError, match="waited"):
        await batcher.submit(work(1.0, timeout=0.01), late)
    task = asyncio.create_task(batcher.submit(work(2.0), gone))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (late.left, gone.left) == (["queue"], ["queue"])
    assert late.phases()["queue"] >= 0.009
    doubler.go.set()
    await running


async def test_a_full_queue_answers_at_once(batcher: Batcher, doubler: Doubler) -> None:
    await busy(batcher, doubler)
    waiting = [submit(batcher, work(float(i))) for i in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="3 requests wait already") as refusal:
        await submit(batcher, work(9.0))
    assert refusal.value.retry_after_ms > 0
    doubler.go.set()
    await asyncio.gather(*waiting)


async def test_who_left_makes_room_in_the_queue(batcher: Batcher, doubler: Doubler) -> None:
    await busy(batcher, doubler)
    gone = [submit(batcher, work(float(i))) for i in range(3)]
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.sleep(0)
    stays = submit(batcher, work(5.0))
    await asyncio.sleep(0)
    doubler.go.set()
    assert (await stays)[0].item() == 10.0


async def test_closing_finishes_what_was_accepted_and_takes_nothing_more(batcher: Batcher, doubler: Doubler) -> None:
    accepted = [await busy(batcher, doubler), submit(batcher, work(1.0))]
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="unloading"):
        await submit(batcher, work(2.0))
    doubler.go.set()
    await closing
    assert [(await task)[0].item() for task in accepted] == [200.0, 2.0]


async def test_phases_add_up_to_the_time_that_passed(batcher: Batcher, doubler: Doubler) -> None:
    doubler.go.set()
    call = Call("ModelInfer")
    started = call.started
    await batcher.submit(work(1.0), call)
    assert set(call.phases()) == {"queue", "compute"}
    assert sum(call.phases().values()) == pytest.approx(call.moments[-1] - started)
    assert min(call.phases().values()) >= 0


@pytest.mark.parametrize(("seconds", "on_the_loop"), [(1e-9, True), (60.0, False)])
async def test_a_run_that_is_known_to_be_short_stays_on_the_loop(doubler: Doubler, seconds: float, on_the_loop: bool) -> None:
    doubler.go.set()
    threads: list[int] = []
    run = doubler.run
    doubler.run = lambda inputs: threads.append(threading.get_ident()) or run(inputs)  # type: ignore[method-assign, func-returns-value]
    sizes = Histogram("sizes", "of batches", registry=CollectorRegistry())
    instance = Instance(doubler, Worker("test"), run_seconds=seconds)
    batcher = Batcher([instance], max_batch_size=4, max_queue_size=3, batch_sizes=sizes)
    await batcher.submit(work(1.0), Call("ModelInfer"))
    await batcher.submit(work(1.0, 2.0), Call("ModelInfer"))  # of this size nothing is known
    await batcher.close()
    assert threads[0] == threading.get_ident() if on_the_loop else threads[0] != threading.get_ident()
    assert threads[1] != threading.get_ident()
