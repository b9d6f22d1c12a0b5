import asyncio
import gc
import threading
import weakref

import pytest
from normserve_server.workers import Worker


async def test_results_and_errors_come_back() -> None:
    worker = Worker("test")
    assert await worker.call(lambda: threading.current_thread().name) == "test"
    with pytest.raises(ZeroDivisionError):
        await worker.call(lambda: 1 / 0)
    await worker.close()


async def test_a_cancelled_job_neither_runs_nor_stays_in_memory() -> None:
    class Tensor:
        """Something that a weak reference can watch."""

    worker, go, ran = Worker("test"), threading.Event(), []
    first = asyncio.create_task(worker.call(go.wait))
    held = Tensor()
    watched = weakref.ref(held)
    gone = asyncio.create_task(worker.call(lambda held=held: ran.append(held)))
    del held
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    del gone
    gc.collect()
    assert watched() is None
    go.set()
    await first
    await worker.close()
    assert not ran


async def test_closing_does_what_was_given_first() -> None:
    worker, done = Worker("test"), []
    tasks = [asyncio.create_task(worker.call(lambda i=i: done.append(i))) for i in range(3)]
    await asyncio.sleep(0)
    await worker.close()
    await asyncio.gather(*tasks)
    assert done == [0, 1, 2]
