"""Built-in models in a repository: their states, their queue, their thread."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_device import FakeAccelerator
from normserve_proto import open_inference_pb2 as pb
from normserve_server.built_in.models import BuiltInModels, OperatorModel, SharedInstance
from normserve_server.built_in.operations import OPERATIONS, Operation
from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError, UnavailableError
from normserve_server.inference import RequestReader
from normserve_server.metrics import Metrics
from normserve_server.operators import Place
from normserve_server.plans import Plans
from normserve_server.regions import Regions
from normserve_server.repository import Repository
from normserve_server.validation import Work
from normserve_server.workers import Worker
from prometheus_client import CollectorRegistry

READER = RequestReader()


@dataclass
class World:
    repository: Repository
    worker: Worker
    models: BuiltInModels
    plans: Plans

    async def infer(self, message: pb.ModelInferRequest) -> tuple[list[np.ndarray], Call]:
        call = Call("ModelInfer")
        planned, work = self.plans.find(READER(message.SerializeToString()), call)
        return list(await planned.version.batcher.submit(work, call)), call


@pytest.fixture
async def world() -> AsyncIterator[World]:
    metrics, worker = Metrics(CollectorRegistry()), Worker("test")
    repository = Repository(metrics)
    repository.searched = True
    models = BuiltInModels(repository, metrics, worker, 8, Place())
    yield World(repository, worker, models, Plans(repository, Regions(allowed=False)))
    await worker.close()


def layer_norm(rows: int, **parameters: float) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="normserve.layer_norm")
    message.parameters["normalized_shape"].int64_param = 4
    for name, value in parameters.items():
        message.parameters[name].double_param = value
    message.inputs.add(name="input", datatype="FP32", shape=[rows, 4])
    message.raw_input_contents.append(np.arange(rows * 4, dtype="<f4").tobytes())
    return message


async def test_the_server_is_ready_when_they_are(world: World) -> None:
    assert set(world.repository.states().values()) == {"LOADING"}
    assert not world.repository.ready
    with pytest.raises(UnavailableError, match="is LOADING"):
        await world.infer(layer_norm(1))
    await world.models.start()
    assert world.repository.states() == {f"{operation.model}/1": "READY" for operation in OPERATIONS}
    assert world.repository.ready


async def test_requests_that_wait_together_run_one_by_one(world: World) -> None:
    await world.models.start()
    answers = await asyncio.gather(*(world.infer(layer_norm(rows)) for rows in (2, 2, 2, 3, 1)))
    assert [outputs[0].shape for outputs, _ in answers] == [(2, 4), (2, 4), (2, 4), (3, 4), (1, 4)]
    statistics = world.repository.find("normserve.layer_norm").statistics
    assert (list(statistics.batches), statistics.executions) == ([1], 5)


async def test_requests_that_differ_in_an_argument_alone(world: World) -> None:
    await world.models.start()
    (near, _), (far, _), (again, _) = [await world.infer(layer_norm(1, eps=eps)) for eps in (1e-5, 10.0, 1e-5)]
    assert abs(far[0]).max() < 0.5 < abs(near[0]).max()
    np.testing.assert_array_equal(again[0], near[0])


async def test_a_refusal_of_the_operator_is_its_request_s_alone(world: World) -> None:
    await world.models.start()
    bad = layer_norm(2)
    bad.parameters["normalized_shape"].int64_param = 3
    good, refused = await asyncio.gather(world.infer(layer_norm(2)), world.infer(bad), return_exceptions=True)
    assert isinstance(refused, InvalidRequestError)
    assert good[0][0].shape == (2, 4)


async def test_unloading_them_leaves_the_thread_to_its_owner(world: World) -> None:
    await world.models.start()
    for version in list(world.repository.versions()):
        await version.batcher.close()
    async with asyncio.timeout(5):
        assert await world.worker.call(lambda: 1) == 1


async def test_they_are_in_no_repository(world: World) -> None:
    assert not any(version.within([Path(), Path("/")]) for version in world.repository.versions())


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.operator)
@pytest.mark.parametrize("updates", [True, False])
def test_no_answer_lies_in_a_request_s_memory(operation: Operation, updates: bool) -> None:
    """It is written later, and the memory may be the next request's by then."""
    inputs = {"input": np.ones((2, 4, 4), np.float32), **{name: np.ones(4, np.float32) for name in operation.optional}}
    inputs |= {name: np.zeros(1, np.int64) for name in inputs if name == "num_batches_tracked"}
    inputs |= {name: np.array(4) if name != "normalized_shape" else np.array([4]) for name in operation.sample}
    inputs |= {name: np.array(updates) for name in ("training", "use_input_stats") if name in operation.arguments}
    outputs = operation.run(Place(), inputs)
    assert len(outputs) == 1 + len(operation.statistics(inputs))
    assert not any(np.shares_memory(output, given) for output in outputs for given in inputs.values())


async def test_the_canary_runs_one(world: World) -> None:
    await world.models.start()
    version = world.repository.find("normserve.rms_norm")
    await version.batcher.probe(10)
    samples: list[int] = []
    version.batcher._instances[0]._servable.run = lambda inputs: samples.append(len(inputs))
    await version.batcher.probe(10)
    assert samples == [2]


@pytest.mark.parametrize(
    ("shape", "training", "quick"),
    [((2, 2), True, False), ((2, 2), False, True), ((2, 2, 1), True, False), ((2, 2, 2), True, True)],
)
async def test_what_depends_on_the_number_of_threads_never_runs_on_the_loop(
    shape: tuple[int, ...], *, training: bool, quick: bool
) -> None:
    worker = Worker("test")
    servable = OperatorModel(next(operation for operation in OPERATIONS if operation.model == "normserve.batch_norm"), Place())
    instance = SharedInstance(servable, worker, run_seconds=1e-9)
    inputs = {"input": np.ones(shape, np.float32), "training": np.array(training)}
    assert instance.quick(Work(inputs, 1, (shape[1:],), None)) is quick
    await worker.close()


async def test_what_the_device_computes_never_runs_on_the_loop_and_is_right() -> None:
    worker, device = Worker("test"), FakeAccelerator()
    servable = OperatorModel(next(one for one in OPERATIONS if one.model == "normserve.batch_norm"), Place(device, pytest.fail))
    instance = SharedInstance(servable, worker, run_seconds=1e-9)
    small, big = (np.random.default_rng(0).normal(2, 3, (rows, 64)).astype(np.float32) for rows in (2, 4096))
    assert instance.quick(Work({"input": small}, 1, ((2, 64),), None))
    assert not instance.quick(Work({"input": big}, 1, ((4096, 64),), None))
    statistics = {"running_mean": np.zeros(64, np.float32), "running_var": np.ones(64, np.float32)}
    count = {"num_batches_tracked": np.array(3), "training": np.array(True)}
    _, mean, var, tracked = servable.run({"input": big, **statistics, **count})
    np.testing.assert_allclose(mean, 0.1 * big.astype(np.float64).mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, 0.9 + 0.1 * big.astype(np.float64).var(0, ddof=1), rtol=1e-5)
    assert tracked == 4
    assert ("copy in", big.nbytes) in device.ordered("copy in")
    await worker.close()
