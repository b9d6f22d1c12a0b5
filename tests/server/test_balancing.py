"""Which of several devices runs next, with instances that the test holds in its hands."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from held_instance import HeldInstance
from normserve_proto.tensors import Array
from normserve_server.balancing import Load
from normserve_server.batching import Batcher
from normserve_server.calls import Call
from normserve_server.errors import InternalError, UnavailableError
from normserve_server.instance import Instance
from normserve_server.validation import Work
from normserve_server.workers import Worker
from prometheus_client import CollectorRegistry, Histogram


def batcher_of(instances: Sequence[HeldInstance], load: Load | None = None) -> Batcher:
    sizes = Histogram("sizes", "of batches", registry=CollectorRegistry())
    return Batcher(instances, max_batch_size=0, max_queue_size=99, batch_sizes=sizes, load=load)  # type: ignore[arg-type]


async def submit(batcher: Batcher, count: int) -> list[asyncio.Task]:
    work = [Work({"x": np.full((1, 1), float(number), np.float32)}, 1, ((1,),), None) for number in range(count)]
    tasks = [asyncio.create_task(batcher.submit(one, Call("ModelInfer"))) for one in work]
    await asyncio.sleep(0)
    return tasks


def busy(instances: Sequence[HeldInstance]) -> list[str]:
    return [instance.device for instance in instances if instance.batch]


async def finish(tasks: Sequence[asyncio.Task], instances: Sequence[HeldInstance]) -> None:
    while not all(task.done() for task in tasks):
        for instance in instances:
            if instance.batch:
                instance.finish()
        await asyncio.sleep(0)
    for number, task in enumerate(tasks):
        assert task.result()[0].item() == 2 * number


@pytest.mark.parametrize("count", range(1, 7))
async def test_batches_are_spread_over_the_devices_before_one_gets_a_second(count: int) -> None:
    devices = ["cuda:0", "cuda:0", "cuda:1", "cuda:1", "cuda:2", "cuda:2"]
    instances = [HeldInstance(device) for device in devices]
    tasks = await submit(batcher_of(instances), count)
    running = [busy(instances).count(device) for device in sorted(set(devices))]
    assert sum(running) == count
    assert max(running) - min(running) <= 1
    await finish(tasks, instances)


async def test_what_other_versions_run_on_a_device_counts() -> None:
    load = Load()
    others, own = [HeldInstance("cuda:1")], [HeldInstance("cuda:0"), HeldInstance("cuda:1")]
    other, one = batcher_of(others, load), batcher_of(own, load)
    elsewhere = await submit(other, 1)
    tasks = await submit(one, 1)
    assert busy(own) == ["cuda:0"]
    await finish(tasks, own)
    await finish(elsewhere, others)
    assert not any(load.values())


async def test_where_none_has_more_to_do_the_fastest_goes_first_and_of_equals_the_last() -> None:
    instances = [HeldInstance("cuda:0", 0.1), HeldInstance("cuda:1", 0.1), HeldInstance("cpu", 9.0)]
    batcher = batcher_of(instances)
    for expected in ("cuda:1", "cuda:1"):
        tasks = await submit(batcher, 1)
        assert busy(instances) == [expected]
        await finish(tasks, instances)
    tasks = await submit(batcher, 2)
    assert busy(instances) == ["cuda:0", "cuda:1"]
    instances[0].finish()
    instances[1].finish()
    await finish(tasks, instances)
    tasks = await submit(batcher, 1)
    assert busy(instances) == ["cuda:1"]
    await finish(tasks, instances)


async def test_a_slower_device_gets_less_and_no_request_waits_while_one_is_free() -> None:
    slow, fast = HeldInstance("cuda:0"), HeldInstance("cuda:1")
    shares = {"cuda:0": 0, "cuda:1": 0}
    batcher = batcher_of([slow, fast])
    tasks = await submit(batcher, 40)
    for tick in range(1, 31):
        assert busy([slow, fast]) == ["cuda:0", "cuda:1"]
        for instance, ticks in ((slow, 3), (fast, 1)):
            if tick % ticks == 0:
                shares[instance.device] += 1
                instance.finish()
    await finish(tasks, [slow, fast])
    assert shares == {"cuda:0": 10, "cuda:1": 30}


async def test_one_that_is_down_gets_nothing_while_another_is_not_and_everything_else() -> None:
    """Or it would fail one after the other while the other works at its first."""
    one, other = HeldInstance("cuda:0"), HeldInstance("cuda:1")
    batcher = batcher_of([one, other])
    one.down = True
    tasks = await submit(batcher, 2)
    assert busy([one, other]) == ["cuda:1"]
    other.down = True
    other.finish()
    assert len(busy([one, other])) == 1
    await finish(tasks, [one, other])
    await batcher.close()  # which waits for all


async def test_a_probe_finds_one_that_is_up_again_and_gives_it_what_waits() -> None:
    one, other = HeldInstance("cuda:0"), HeldInstance("cuda:1")
    batcher = batcher_of([one, other])
    one.down, one.probed = True, UnavailableError("broken")
    tasks = await submit(batcher, 2)
    await batcher.probe(1)
    assert busy([one, other]) == ["cuda:1"]
    one.down, one.probed = False, None
    await batcher.probe(1)
    assert busy([one, other]) == ["cuda:0", "cuda:1"]
    await finish(tasks, [one, other])


async def test_a_probe_fails_where_all_are_down_or_one_that_is_up_fails() -> None:
    one, other = HeldInstance("cuda:0"), HeldInstance("cuda:1")
    batcher = batcher_of([one, other])
    one.probed = InternalError("wrong")
    with pytest.raises(InternalError, match="wrong"):
        await batcher.probe(1)
    one.probed = other.probed = UnavailableError("broken")
    one.down = other.down = True
    with pytest.raises(UnavailableError, match="broken"):
        await batcher.probe(1)


async def test_an_instance_is_down_from_when_its_servable_is_gone_until_it_works() -> None:
    class Servable:
        error: Exception | None = UnavailableError("broken")

        def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
            if self.error is not None:
                raise self.error
            return [inputs["x"]]

    servable = Servable()
    instance = Instance(servable, Worker("test"), sample={"x": np.zeros(1)})  # type: ignore[arg-type]
    with pytest.raises(UnavailableError):
        await instance.probe(10)
    assert instance.down
    servable.error = None
    await instance.probe(10)
    assert not instance.down
    servable.error = InternalError("one bad request")
    instance.run([Work({"x": np.zeros((1, 1))}, 1, ((1,),), None)])
    assert not instance.down
    await instance.close()
