"""From a version's folder to something that serves: artifact, sessions, instances, batcher. None runs on the serving loop."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from normserve_proto import open_inference_pb2 as pb

from normserve_server import config_completion, devices, opening, preparation
from normserve_server.balancing import Load
from normserve_server.batching import Batcher
from normserve_server.devices import Device
from normserve_server.instance import Instance
from normserve_server.metrics import Metrics
from normserve_server.model_config import InstanceGroup, ModelConfig
from normserve_server.opening import Opened
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
        load_of_devices: batches that run on each device, of all versions.
    """

    settings: Settings
    device: Device
    metrics: Metrics
    engine: str
    turns: asyncio.Semaphore
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
            opened = await asyncio.to_thread(opening.open_all, artifact.path, folder.parent, config, self.settings, self.device)
        servable, statistics = opened[0].servable, Statistics()
        batcher = Batcher(
            [_instance(one, f"{'-'.join(labels)}-{number}") for number, one in enumerate(opened)],
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
            _completed(config, labels[0], opened),
            statistics,
            config.labels,
            warm_up_seconds=sum(one.warm_up_seconds for one in {id(one): one for one in opened}.values()),
        )

    async def _artifact(self, source: Path) -> Artifact:
        if not self.settings.fold:
            return Artifact(source)
        return await preparation.prepare(source, self.settings.cache_dir, self.engine)


def _instance(opened: Opened, name: str) -> Instance:
    device = str(opened.device)
    return Instance(opened.servable, Worker(name), opened.seconds, buckets=opened.buckets, sample=opened.sample, device=device)


def _completed(config: ModelConfig, model: str, opened: Sequence[Opened]) -> pb.ModelConfig:
    return config_completion.completed(
        config,
        opened[0].servable.signature,
        model=model,
        instances=_groups(config, opened),
        threads=opened[0].threads,
        buckets=opened[0].buckets,
    )


def _groups(config: ModelConfig, opened: Sequence[Opened]) -> list[InstanceGroup]:
    """The configured groups, on the devices that they got."""
    left = iter(opened)
    return [
        _on_devices(group, list(itertools.islice(left, group.count * max(len(group.gpus), 1)))) for group in config.instances
    ]


def _on_devices(group: InstanceGroup, opened: Sequence[Opened]) -> InstanceGroup:
    if opened[0].device.provider == devices.CPU:
        return replace(group, kind="cpu", gpus=())
    return replace(group, kind="gpu", gpus=tuple(dict.fromkeys(one.device.index for one in opened)))
