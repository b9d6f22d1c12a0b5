"""Queues as the metrics show them, around a servable that the test holds in its hands."""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from normserve_proto.tensors import Array
from normserve_server.batching import Batcher
from normserve_server.calls import Call
from normserve_server.instance import Instance
from normserve_server.metrics import Metrics
from normserve_server.queue_metrics import QueueMetrics
from normserve_server.repository import Repository
from normserve_server.validation import Work
from normserve_server.version import UNAVAILABLE, UNLOADED, Loaded, Version
from normserve_server.workers import Worker
from prometheus_client import CollectorRegistry

LABELS = {"model": "m", "version": "1"}


class Held:
    """A servable that answers once the test lets it."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        assert self.go.wait(10)
        return [inputs["x"]]


class World:
    """A version whose batches are held."""

    def __init__(self) -> None:
        self.held = Held()
        self.metrics = Metrics(CollectorRegistry())
        self.repository = Repository(self.metrics)
        sizes = self.metrics.batch_size.labels("m", "1")
        self.batcher = Batcher([Instance(self.held, Worker("t"))], max_batch_size=1, max_queue_size=5, batch_sizes=sizes)  # type: ignore[arg-type]
        self.version = Version("m", "1", Path("m/1"), loaded=Loaded(self.held, self.batcher))  # type: ignore[arg-type]
        self.repository.put(self.version)
        self.queues = QueueMetrics(self.repository, self.metrics)

    def submit(self) -> "asyncio.Task[Sequence[Array]]":
        work = Work({"x": np.zeros((1, 1), np.float32)}, 1, ((1,),), None)
        return asyncio.create_task(self.batcher.submit(work, Call("ModelInfer")))

    def shown(self) -> tuple[float | None, ...]:
        """Depth, age and fullness."""
        self.queues.sample()
        names = ("depth", "oldest_seconds", "fullness_ratio")
        return tuple(self.metrics.registry.get_sample_value(f"normserve_queue_{name}", LABELS) for name in names)


@pytest.fixture
async def world():
    world = World()
    yield world
    world.held.go.set()
    await world.batcher.close()


async def test_what_runs_does_not_wait_and_the_oldest_grows_old(world: World) -> None:
    assert world.shown() == (0, 0, 0)
    calls = [world.submit() for _ in range(3)]
    await asyncio.sleep(0)
    depth, first, fullness = world.shown()
    assert (depth, fullness) == (2, 2 / 5)
    time.sleep(0.01)  # noqa: ASYNC251 - nothing else is to happen
    assert world.shown()[1] > first + 0.009 > 0.009
    world.held.go.set()
    await asyncio.gather(*calls)
    assert world.shown() == (0, 0, 0)


async def test_a_version_that_was_unloaded_has_no_queue_and_one_that_is_gone_no_series(world: World) -> None:
    world.submit(), world.submit()
    await asyncio.sleep(0)
    assert world.shown()[0] == 1
    world.version.release()
    world.repository.change(world.version, UNAVAILABLE, UNLOADED)
    assert world.shown() == (0, 0, 0)
    world.repository.drop(world.version)
    assert world.shown() == (None, None, None)


async def test_a_version_that_never_loaded_has_no_series(world: World) -> None:
    world.repository.put(Version("m", "2", Path("m/2"), UNAVAILABLE))
    world.queues.sample()
    assert world.metrics.registry.get_sample_value("normserve_queue_depth", LABELS | {"version": "2"}) is None
