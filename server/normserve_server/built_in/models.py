"""Brings the built-in models into service."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import structlog
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import Array

from normserve_server import warm_up
from normserve_server.batching import Batcher
from normserve_server.built_in import planning
from normserve_server.built_in.operations import INPUT, OPERATIONS, SAMPLE_SHAPE, Operation
from normserve_server.calls import now
from normserve_server.config_tensors import DATA_TYPES
from normserve_server.inline import depends_on_threads
from normserve_server.instance import Instance
from normserve_server.metrics import Metrics
from normserve_server.operators import Place
from normserve_server.repository import Repository
from normserve_server.statistics import Statistics
from normserve_server.validation import Work
from normserve_server.version import READY, Loaded, Version
from normserve_server.workers import Worker

NUMBER = "1"
PLATFORM = "normserve_operator"
BACKEND = "torch"

_log = structlog.get_logger(__name__)


class OperatorModel:
    """An operator as a servable. Its `run` takes the arguments among the inputs.

    Args:
        operation: the operator.
        place: where it computes.
    """

    provider = "torch"

    def __init__(self, operation: Operation, place: Place) -> None:
        self.signature = planning.signature(operation)
        self.place = place
        self.run = partial(operation.run, place)


class SharedInstance(Instance):
    """An instance whose thread is others' too, and ended by whoever made it.

    Args:
        servable: the model.
        worker: its thread.
        run_seconds: see `Instance`; likewise `sample`.
    """

    def __init__(
        self,
        servable: OperatorModel,
        worker: Worker,
        run_seconds: float = math.inf,
        *,
        sample: Mapping[str, Array] | None = None,
    ) -> None:
        super().__init__(servable, worker, run_seconds, sample=sample)
        self._place = servable.place

    def quick(self, work: Work) -> bool:
        """As always, but for what depends on the number of threads, of which the loop has one, and what a device computes."""
        x = work.inputs[INPUT]
        if (work.inputs.get("training") and depends_on_threads(x)) or self._place.takes(x):
            return False
        return super().quick(work)

    async def close(self) -> None:
        """Leaves the thread alone."""


class BuiltInModels:
    """The built-in models; they share one thread, because each of their operators uses every core.

    Args:
        repository: where they are listed, from now on.
        metrics: where batch sizes are recorded.
        worker: the thread.
        max_queue_size: most requests that wait for one of them.
        place: where they compute.
    """

    def __init__(self, repository: Repository, metrics: Metrics, worker: Worker, max_queue_size: int, place: Place) -> None:
        self._repository = repository
        self._metrics = metrics
        self._worker = worker
        self._max_queue_size = max_queue_size
        self._place = place
        self._versions = {operation: Version(operation.model, NUMBER, Path(), built_in=True) for operation in OPERATIONS}
        for version in self._versions.values():
            repository.entry(version.model).expected = True
            repository.put(version)

    async def start(self) -> None:
        """Runs each once, and puts it into service."""
        for operation, version in self._versions.items():
            started = now()
            version.loaded = await self._load(operation)
            self._metrics.load_seconds.labels(*version.labels).set(now() - started)
            self._metrics.warm_up_seconds.labels(*version.labels).set(version.warm_up_seconds)
            self._metrics.provided_by(*version.labels, version.provider)
            self._repository.change(version, READY, version.reason)
        _log.info("built-in models ready", models=len(self._versions))

    async def _load(self, operation: Operation) -> Loaded:
        servable, statistics, sample = OperatorModel(operation, self._place), Statistics(), _sample(operation)
        began = now()
        await self._worker.call(partial(warm_up.seconds_per_run, servable, sample))
        warm_up_seconds = now() - began
        batcher = Batcher(
            [SharedInstance(servable, self._worker, sample=sample)],
            max_batch_size=servable.signature.max_batch_size,
            max_queue_size=self._max_queue_size,
            batch_sizes=self._metrics.batch_size.labels(operation.model, NUMBER),
            statistics=statistics,
            padding=self._metrics.batch_padding.labels(operation.model, NUMBER),
        )
        plan = partial(planning.plan, operation)
        return Loaded(
            servable, batcher, config=_config(operation), statistics=statistics, plan=plan, warm_up_seconds=warm_up_seconds
        )


def _sample(operation: Operation) -> Mapping[str, Array]:
    arguments = {name: np.array(value) for name, value in operation.sample.items()}
    return {INPUT: np.ones(SAMPLE_SHAPE, np.float32), **arguments}


def _config(operation: Operation) -> pb.ModelConfig:
    """What ModelConfig tells: `parameters` has the names of the arguments and what each may be."""
    signature = planning.signature(operation)
    message = pb.ModelConfig(name=operation.model, platform=PLATFORM, backend=BACKEND)
    for spec in signature.inputs:
        optional = spec.name != INPUT
        message.input.add(name=spec.name, data_type=DATA_TYPES[spec.datatype], dims=spec.shape, optional=optional)
    for spec in signature.outputs:
        message.output.add(name=spec.name, data_type=DATA_TYPES[spec.datatype], dims=spec.shape)
    for name, argument in operation.arguments.items():
        message.parameters[name].string_value = argument.description
    message.version_policy.latest.num_versions = 1
    message.instance_group.add(name=operation.model, kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    message.model_transaction_policy.SetInParent()
    return message
