"""From a version's folder to something that serves: artifact, sessions, instances, batcher. None runs on the serving loop."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import Array

from normserve_server import config_completion, devices, placement, preparation
from normserve_server.accelerators.opened import Accelerators
from normserve_server.balancing import Load
from normserve_server.batching import Batcher
from normserve_server.devices import Device
from normserve_server.errors import LoadError, ServiceError
from normserve_server.instance import Instance
from normserve_server.metrics import Metrics
from normserve_server.model_config import InstanceGroup, ModelConfig
from normserve_server.opening import Opened, Opener
from normserve_server.preparation import Artifact
from normserve_server.settings import Settings
from normserve_server.statistics import Statistics
from normserve_server.version import Loaded
from normserve_server.workers import Worker

CONCURRENT_LOADS = 2  # each may run a child that uses every core


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions.

    Attributes:
        settings: where artifacts are kept, whether to fold, threads, batch and queue sizes.
        device: where sessions run.
        metrics: where batch sizes are recorded.
        engine: names what folds, as `preparation.engine` does.
        turns: how many load at a time.
        accelerators: the devices.
        load_of_devices: batches that run on each device, of all versions.
    """

    settings: Settings
    device: Device
    metrics: Metrics
    engine: str
    turns: asyncio.Semaphore
    accelerators: Accelerators = field(default_factory=Accelerators)
    load_of_devices: Load = field(default_factory=Load)

    async def load(self, folder: Path, labels: tuple[str, str], config: ModelConfig) -> Loaded:
        """Loads the version in `folder`.

        Args:
            folder: `<repository>/<model>/<version>`.
            labels: model and version, for metrics and the threads' names.
            config: how it is to be served.

        Raises:
            LoadError: it cannot be served; the text says why.
        """
        async with self.turns:
            artifact = await self._artifact(folder / config.filename)
            self.metrics.begin_device_events(*labels)
            tell = partial(self._count, labels)
            opener = Opener(artifact.path, folder.parent, config, self.settings, self.accelerators, tell)
            opened = await asyncio.to_thread(opener.open_all, self.device)
            instances = await self._instances(opened, "-".join(labels))
        servable, statistics = opened[0].servable, Statistics()
        batcher = Batcher(
            instances,
            max_batch_size=servable.signature.max_batch_size,
            max_queue_size=self.settings.max_queue_size,
            batch_sizes=self.metrics.batch_size.labels(*labels),
            batching=config.batching,
            statistics=statistics,
            padding=self.metrics.batch_padding.labels(*labels),
            load=self.load_of_devices,
        )
        return Loaded(
            servable,
            batcher,
            artifact.report,
            _completed(config, labels[0], opened, self.device),
            statistics,
            config.labels,
            warm_up_seconds=sum(one.warm_up_seconds for one in {id(one): one for one in opened}.values()),
        )

    def give_back(self) -> None:
        """Has the devices return what sessions that are gone have left with them; may block."""
        self.accelerators.give_back()

    async def _instances(self, opened: Sequence[Opened], name: str) -> list[Instance]:
        """Makes the instances; those on a GPU have each run once, on their own threads, before they serve.

        Raises:
            LoadError: one did not.
        """
        instances: list[Instance] = []
        for one in opened:
            accelerator = self.accelerators.of(one.device)
            threads = 2 if accelerator.apart and self.settings.double_buffering else 1
            staging = accelerator.staging if accelerator.apart else None
            instances += [_instance(one, f"{name}-{len(instances) + number}", staging) for number in range(threads)]
        try:
            for instance in instances:
                await instance.prepare()
        except ServiceError as error:
            await asyncio.gather(*(instance.close() for instance in instances))
            raise LoadError(f"its first inference failed: {error}") from error
        return instances

    def _count(self, labels: tuple[str, str], event: str) -> None:
        self.metrics.device_events.labels(*labels, event).inc()

    async def _artifact(self, source: Path) -> Artifact:
        if not self.settings.fold:
            return Artifact(source)
        return await preparation.prepare(source, self.settings.cache_dir, self.engine)


def _instance(opened: Opened, name: str, staging: Callable[[int], Array] | None) -> Instance:
    return Instance(
        opened.servable,
        Worker(name),
        opened.seconds,
        buckets=opened.buckets,
        sample=opened.sample,
        device=str(opened.device),
        staging=staging,
    )


def _completed(config: ModelConfig, model: str, opened: Sequence[Opened], default: Device) -> pb.ModelConfig:
    return config_completion.completed(
        config,
        opened[0].servable.signature,
        model=model,
        instances=_groups(config, opened, default),
        threads=opened[0].threads,
        buckets=opened[0].buckets,
    )


def _groups(config: ModelConfig, opened: Sequence[Opened], default: Device) -> list[InstanceGroup]:
    """The configured groups, on the devices that they got."""
    left = iter(opened)
    counts = [group.count * len(placement.on(group, default)) for group in config.instances]
    return [
        _on_devices(group, list(itertools.islice(left, count))) for group, count in zip(config.instances, counts, strict=True)
    ]


def _on_devices(group: InstanceGroup, opened: Sequence[Opened]) -> InstanceGroup:
    if opened[0].device.provider == devices.CPU:
        return replace(group, kind="cpu", gpus=())
    return replace(group, kind="gpu", gpus=tuple(dict.fromkeys(one.device.index for one in opened)))
