"""A version on two pretended GPUs, from its config to its answers."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_device import FakeAccelerator
from normserve_server import devices, model_config, operators, restarting
from normserve_server.accelerators.opened import Accelerators
from normserve_server.batching import Batcher
from normserve_server.calls import Call
from normserve_server.devices import CUDA, Device
from normserve_server.errors import UnavailableError
from normserve_server.loading import Loader
from normserve_server.metrics import Metrics
from normserve_server.settings import Settings
from normserve_server.validation import Work
from normserve_server.version import Loaded
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry

X = np.random.default_rng(0).normal(2, 3, (1, 4)).astype(np.float32)


class World:
    """The GPUs, and a folder with a model that doubles."""

    def __init__(self, folder: Path) -> None:
        self.gpus = [FakeAccelerator(0), FakeAccelerator(1)]
        self.folder = folder
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "test", [x], [y])
        (folder / "1").mkdir()
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, folder / "1" / "model.onnx")

    async def load(self, config: str) -> Loaded:
        (self.folder / "config.pbtxt").write_text(f"max_batch_size: 2 {config}")
        accelerators = Accelerators(lambda device: self.gpus[device.index])
        settings = Settings(repository=(self.folder.parent,), fold=False, restart_sessions=True)
        metrics = Metrics(CollectorRegistry())
        loader = Loader(settings, Device(CUDA), metrics, "", asyncio.Semaphore(1), accelerators=accelerators)
        loaded = await loader.load(self.folder / "1", ("m", "1"), model_config.read(self.folder))
        for gpu in self.gpus:
            gpu.journal.clear()
        return loaded

    def runs(self) -> list[int]:
        return [len(gpu.ordered("run")) for gpu in self.gpus]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(devices, "gpu_count", lambda: 2)
    monkeypatch.setattr(restarting, "RETRY_SECONDS", 0.0)
    (tmp_path / "m").mkdir()
    return World(tmp_path / "m")


async def infer(batcher: Batcher, x: np.ndarray = X) -> np.ndarray:
    (y,) = await batcher.submit(Work({"x": x}, 1, ((4,),), None), Call("ModelInfer"))
    return np.asarray(y)


@pytest.mark.parametrize("group", ["instance_group { kind: KIND_GPU gpus: [ 1, 0 ] }", "instance_group { kind: KIND_GPU }"])
async def test_requests_that_come_together_run_on_both(world: World, group: str) -> None:
    loaded = await world.load(group)
    assert sorted(loaded.config.instance_group[0].gpus) == [0, 1]
    go, started = threading.Event(), [threading.Event(), threading.Event()]

    def held(number: int) -> None:
        started[number].set()
        assert go.wait(10)

    world.gpus[0].running, world.gpus[1].running = lambda: held(0), lambda: held(1)
    tasks = [asyncio.create_task(infer(loaded.batcher, factor * X)) for factor in (1, 2)]
    for event in started:
        assert await asyncio.to_thread(event.wait, 10)
    go.set()
    for factor, task in enumerate(tasks, 1):
        np.testing.assert_array_equal(await task, 2 * factor * X)
    assert world.runs() == [1, 1]
    await loaded.batcher.close()


async def test_a_gpu_that_breaks_is_left_out_until_it_is_back(world: World) -> None:
    batcher = (await world.load("instance_group { kind: KIND_GPU }")).batcher
    world.gpus[0].broken_by = "an illegal memory access was encountered"
    await batcher.probe(10)  # of which one fails
    before = world.runs()
    for _ in range(5):
        np.testing.assert_array_equal(await infer(batcher), 2 * X)
    assert [after - earlier for earlier, after in zip(before, world.runs(), strict=True)] == [0, 5]
    world.gpus[1].broken_by = "likewise"
    await batcher.probe(10)  # of what has answered since the last one nothing is tried
    with pytest.raises(UnavailableError, match="the device broke, and a new session cannot be opened"):
        await batcher.probe(10)
    world.gpus[0].broken_by = None
    await batcher.probe(10)
    np.testing.assert_array_equal(await infer(batcher), 2 * X)
    await batcher.close()


AROUND = """parameters { key: "operators" value { string_value:
    '{"x": {"operator": "layer_norm", "normalized_shape": 4}, "y": {"operator": "normalize", "dim": -1}}' } }"""


async def test_operators_are_joined_to_the_model_on_each(world: World) -> None:
    loaded = await world.load("instance_group { kind: KIND_GPU gpus: 1 }" + AROUND)
    assert loaded.config.parameters["operators"].string_value.startswith('{"x"')
    y = await infer(loaded.batcher)
    wanted = operators.normalize(operators.layer_norm(X, (4,)).output, dim=-1).output
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
    assert world.gpus[1].ordered("copy in", "copy out") == [("copy in", X.nbytes), ("copy out", X.nbytes)]
    await loaded.batcher.close()


async def test_joined_to_operators_it_is_opened_anew_where_its_device_breaks(world: World) -> None:
    batcher = (await world.load("instance_group { kind: KIND_GPU gpus: 0 }" + AROUND)).batcher
    before = await infer(batcher)
    world.gpus[0].broken_by = "an illegal memory access was encountered"
    with pytest.raises(UnavailableError, match="illegal memory access"):
        await infer(batcher)
    world.gpus[0].broken_by = None
    np.testing.assert_array_equal(await infer(batcher), before)
    await batcher.close()
