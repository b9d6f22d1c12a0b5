"""From a file to instances on a device: a fake with so much memory, whose sessions run on the CPU."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from fake_device import FakeAccelerator
from normserve_server import memory
from normserve_server.accelerators.host import Host
from normserve_server.accelerators.opened import Accelerators
from normserve_server.calls import Call
from normserve_server.devices import CPU, CUDA, Device
from normserve_server.errors import DeviceBrokenError, LoadError, UnavailableError
from normserve_server.loading import Loader
from normserve_server.metrics import DEVICE_EVENTS, Metrics
from normserve_server.model_config import Batching, ModelConfig
from normserve_server.opening import Opener
from normserve_server.settings import Settings
from normserve_server.validation import Work
from prometheus_client import CollectorRegistry
from small_networks import WEIGHT, linear

LABELS = ("m", "1")


class World:
    """A loader whose only GPU is a fake, and a model for it."""

    def __init__(self, root: Path, device: FakeAccelerator, **settings: object) -> None:
        self.device = device
        self.folder = root / "m" / "1"
        self.folder.mkdir(parents=True, exist_ok=True)
        linear(self.folder / "model.onnx")
        self.metrics = Metrics(CollectorRegistry())
        self.accelerators = Accelerators(lambda wanted: Host() if wanted.provider == CPU else device)
        chosen = Settings(repository=(root,), fold=False, default_max_batch_size=4, **settings)
        self.loader = Loader(chosen, Device(CUDA), self.metrics, "", asyncio.Semaphore(1), accelerators=self.accelerators)

    async def load(self, **config):
        """Loads the model; `config` is a ModelConfig's."""
        self.loaded = await self.loader.load(self.folder, LABELS, ModelConfig(**config))
        return self.loaded

    async def ask(self, *rows):
        x = np.array(rows, np.float32)
        y, _ = await self.loaded.batcher.submit(Work({"x": x}, len(x), ((3,),), None), Call("ModelInfer"))
        np.testing.assert_array_equal(y, x @ WEIGHT)

    def events(self):
        name = "normserve_device_events_total"
        values = {
            e: self.metrics.registry.get_sample_value(name, {"model": "m", "version": "1", "event": e}) for e in DEVICE_EVENTS
        }
        return {event: value for event, value in values.items() if value}


@pytest.fixture
def device():
    return FakeAccelerator()


async def test_requests_go_through_the_device_on_their_instance_s_thread(tmp_path, device) -> None:
    world = World(tmp_path, device)
    await world.load()
    device.journal.clear()
    device.pageable_copies = 0
    await asyncio.gather(*(world.ask([n, 2, 3], [4, 5, n]) for n in range(8)))
    assert {lane for lane, what, *_ in device.journal if what == "copy in"} == {3}  # 0 is the session's, 1 and 2 the warm-up's
    assert not device.pageable_copies
    await world.loaded.batcher.close()


async def test_with_double_buffering_an_instance_is_two_threads_and_one_session(tmp_path, device) -> None:
    world = World(tmp_path, device, double_buffering=True)
    loaded = await world.load()
    assert len(device.ordered("providers")) == 1
    assert [group.count for group in loaded.config.instance_group] == [1]
    device.journal.clear()
    await asyncio.gather(*(world.ask([n, 2, 3]) for n in range(50)))
    assert {lane for lane, what, *_ in device.journal if what == "copy in"} == {3, 5}
    await loaded.batcher.close()


async def test_buckets_are_captured_on_the_threads_that_replay_them(tmp_path, device) -> None:
    world = World(tmp_path, device, cuda_graphs=True)
    await world.load()
    device.journal.clear()
    await world.ask([1, 2, 3])
    (graph,) = device.ordered("run")
    assert graph[1] is not None
    assert world.events() == {}
    await world.loaded.batcher.close()


async def test_graphs_that_cannot_be_are_counted(tmp_path, device) -> None:
    device.fails_capture = True
    world = World(tmp_path, device, cuda_graphs=True)
    await world.load()
    await world.ask([1, 2, 3])
    assert world.events() == {"cuda_graphs": 1}
    await world.loaded.batcher.close()


async def test_the_settings_are_what_sessions_are_opened_with(tmp_path, device) -> None:
    world = World(tmp_path, device, gpu_mem_limit=10**6, cudnn_conv_algo_search="EXHAUSTIVE", tf32=True, prefer_nhwc=True)
    await world.load()
    ((_, tuning),) = device.ordered("providers")
    assert (tuning.memory_limit_bytes, tuning.conv_algo_search, tuning.tf32, tuning.prefer_nhwc) == (
        10**6,
        "EXHAUSTIVE",
        True,
        True,
    )
    assert not tuning.cuda_graphs
    assert not tuning.tensorrt
    await world.loaded.batcher.close()


async def test_weights_that_do_not_fit_are_refused_with_the_numbers(tmp_path) -> None:
    world = World(tmp_path, FakeAccelerator(total_bytes=1000))
    (world.folder / "weights.bin").write_bytes(bytes(2000))
    size = 2000 + (world.folder / "model.onnx").stat().st_size
    with pytest.raises(LoadError, match=rf"its weights take {size} bytes.* \(cuda:0 has 1000 of 1000 bytes free\)"):
        await world.load()
    assert not world.device.ordered("providers")


async def test_room_that_was_freed_and_kept_is_room(tmp_path) -> None:
    device = FakeAccelerator(total_bytes=2500)
    world = World(tmp_path, device)
    (world.folder / "weights.bin").write_bytes(bytes(1500))
    device.memory(1000)  # and let go of
    assert device.free_and_total_bytes()[0] == 1500
    await world.load()
    await world.loaded.batcher.close()


async def test_weights_over_the_limit_are_refused_with_the_numbers(tmp_path, device) -> None:
    world = World(tmp_path, device, gpu_mem_limit=100)
    with pytest.raises(LoadError, match=r"its weights take \d+ bytes, and gpu_mem_limit is 100"):
        await world.load()


async def test_a_warm_up_that_does_not_fit_is_refused_with_the_numbers(tmp_path) -> None:
    world = World(tmp_path, FakeAccelerator(total_bytes=700))
    with pytest.raises(
        LoadError, match=r"first inference failed: cuda:0: wanted \d+ bytes .* \(cuda:0 has \d+ of 700 bytes free\)"
    ):
        await world.load(max_batch_size=64)


async def test_a_device_that_breaks_fails_what_it_was_at_and_a_new_session_serves_on(tmp_path, device) -> None:
    world = World(tmp_path, device, restart_sessions=True)
    await world.load()
    device.break_once("an illegal memory access was encountered")
    with pytest.raises(DeviceBrokenError, match="cuda:0: an illegal memory access"):
        await world.ask([1, 2, 3])
    await world.ask([1, 2, 3])
    assert len(device.ordered("providers")) == 2
    assert world.events() == {"restarted": 1}
    await world.loaded.batcher.close()


async def test_a_batch_under_which_the_device_broke_runs_again_one_by_one(tmp_path, device) -> None:
    world = World(tmp_path, device, restart_sessions=True)
    await world.load(batching=Batching(max_delay_seconds=60))  # so that all four come together
    device.break_once("an illegal memory access was encountered")
    await asyncio.gather(*(world.ask([n, 2, 3]) for n in range(4)))
    assert world.events() == {"restarted": 1}
    await world.loaded.batcher.close()


async def test_a_device_that_stays_broken_makes_the_canary_say_so(tmp_path, device) -> None:
    world = World(tmp_path, device, restart_sessions=True)
    await world.load()
    device.broken_by = "an illegal memory access was encountered"
    with pytest.raises(UnavailableError, match=r"a new session cannot be opened: .*illegal memory access.*restart the process"):
        await world.ask([1, 2, 3])
    assert world.events() == {"restart_failed": 1}
    with pytest.raises(UnavailableError, match="restart the process"):
        await world.loaded.batcher.probe(10)
    assert world.events() == {"restart_failed": 1}  # not at once again
    await world.loaded.batcher.close()


async def test_nothing_is_opened_anew_unless_that_is_asked_for(tmp_path, device) -> None:
    world = World(tmp_path, device)
    await world.load()
    device.break_once("an illegal memory access was encountered")
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"restart_sessions is off; .*restart the process"):
            await world.ask([1, 2, 3])
    assert len(device.ordered("providers")) == 1
    assert world.events() == {"restart_failed": 1}
    await world.loaded.batcher.close()


async def test_memory_comes_back_after_the_unload(tmp_path, device) -> None:
    world = World(tmp_path, device, double_buffering=True, cuda_graphs=True)
    loaded = await world.load()
    await world.ask([1, 2, 3])
    await loaded.batcher.close()
    assert device.free_and_total_bytes()[0] < 2**30
    held = [loaded]
    del loaded, world.loaded
    memory.give_back(held)  # as departures do
    world.loader.give_back()
    assert device.free_and_total_bytes() == (2**30, 2**30)


async def test_a_cpu_model_beside_it_is_bound_to_the_host(tmp_path, device) -> None:
    world = World(tmp_path, device)
    file, settings = world.folder / "model.onnx", world.loader.settings
    Opener(file, world.folder.parent, ModelConfig(), settings, world.accelerators).open_all(Device(CPU))
    assert not device.journal
