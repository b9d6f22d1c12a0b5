"""From a version's folder to something that serves: config, artifact, sessions, warm-up. None runs on the serving loop."""

import asyncio
import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from normserve_server import devices, placement, preparation, warm_up
from normserve_server.batching import Batcher
from normserve_server.devices import Device
from normserve_server.errors import ServiceError
from normserve_server.instance import Instance
from normserve_server.metrics import Metrics
from normserve_server.model_config import ModelConfig
from normserve_server.preparation import Artifact
from normserve_server.session import LoadError, OnnxSession
from normserve_server.settings import Settings
from normserve_server.statistics import Statistics
from normserve_server.version import Loaded
from normserve_server.workers import Worker

CONCURRENT_LOADS = 2  # each may run a child that uses every core
# A shorter run gets one thread: sharing it out gains microseconds, and the threads that then spin for the next one take the
# cores from gRPC and from every other model (a run of 40 us, 16 callers, two cores: 1,840 requests/s with two threads, 2,820
# with one).
SMALL_RUN_SECONDS = 5e-4

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that has worked.

    Attributes:
        session: the session.
        seconds: what one sample takes; infinity where that is not known.
        threads: within one operator; 0 for one per core.
    """

    session: OnnxSession
    seconds: float
    threads: int


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions.

    Attributes:
        settings: where artifacts are kept, whether to fold, threads, batch and queue sizes.
        device: where sessions run.
        metrics: where batch sizes are recorded.
        engine: names what folds, as `preparation.engine` does.
        turns: how many load at a time.
    """

    settings: Settings
    device: Device
    metrics: Metrics
    engine: str
    turns: asyncio.Semaphore

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
            opened = await asyncio.to_thread(self._open_all, artifact, config)
        session = opened[0].session
        statistics = Statistics()
        batcher = Batcher(
            [self._instance(one, f"{'-'.join(labels)}-{number}", config) for number, one in enumerate(opened)],
            max_batch_size=session.signature.max_batch_size,
            max_queue_size=self.settings.max_queue_size,
            batch_sizes=self.metrics.batch_size.labels(*labels),
            batching=config.batching,
            statistics=statistics,
        )
        return Loaded(session, batcher, artifact.report, statistics=statistics)

    async def _artifact(self, source: Path) -> Artifact:
        if not self.settings.fold:
            return Artifact(source)
        return await preparation.prepare(source, self.settings.cache_dir, self.engine)

    def _instance(self, opened: Opened, name: str, config: ModelConfig) -> Instance:
        session = opened.session
        sample = warm_up.zeros(session.signature)
        return Instance(session, Worker(name), opened.seconds, buckets=_buckets(session, config), sample=sample)

    def _open_all(self, artifact: Artifact, config: ModelConfig) -> list[Opened]:
        """Opens a session for each instance; those on the CPU share one, which any number of threads may run at a time."""
        places = placement.place(config.instances, self.device)
        threads = config.threads or self.settings.intra_op_threads
        on_cpu = sum(place.provider == devices.CPU for place in places)
        opened: list[Opened] = []
        for place in places:
            shared = [one for one in opened if one.session.provider == place.provider == devices.CPU]
            opened.append(
                shared[0] if shared else self._open_warm(artifact, config, place, placement.threads(threads, max(on_cpu, 1)))
            )
        return opened

    def _open_warm(self, artifact: Artifact, config: ModelConfig, device: Device, threads: int) -> Opened:
        """Opens a session and runs it; again with one thread where it turns out to be small and nobody has said how many."""
        opened = self._open(artifact, config, device, threads)
        given = config.threads or self.settings.intra_op_threads
        if not given and threads != 1 and opened.seconds <= SMALL_RUN_SECONDS and device.provider == devices.CPU:
            opened = self._open(artifact, config, device, 1)
        self._warm_buckets(opened.session, config)
        return opened

    def _open(self, artifact: Artifact, config: ModelConfig, device: Device, threads: int) -> Opened:
        session = OnnxSession(
            artifact.path,
            device,
            threads=threads,
            max_batch_size=config.max_batch_size,
            default_max_batch_size=self.settings.default_max_batch_size,
        )
        inputs = warm_up.zeros(session.signature)
        if inputs is None:
            _log.info("no warm-up: extents beyond the batch's are dynamic", file=str(artifact.path))
            return Opened(session, math.inf, threads)
        with _failing_warm_up():
            return Opened(session, warm_up.seconds_per_run(session, inputs), threads)

    def _warm_buckets(self, session: OnnxSession, config: ModelConfig) -> None:
        for size in _buckets(session, config):
            inputs = warm_up.zeros(session.signature, size)
            if inputs is not None:
                with _failing_warm_up():
                    session.run(inputs)


def _buckets(session: OnnxSession, config: ModelConfig) -> tuple[int, ...]:
    """Sizes that batches are padded to: as configured, else powers of two on a GPU, which searches anew for each new size."""
    most = session.signature.max_batch_size
    if not most:
        return ()
    if config.batching.buckets is not None:
        return config.batching.buckets
    if session.provider == devices.CPU:  # a batch of any size runs as well, and padding is work for nothing
        return ()
    return (*itertools.takewhile(lambda size: size < most, (2**power for power in itertools.count())), most)


@contextlib.contextmanager
def _failing_warm_up() -> Iterator[None]:
    try:
        yield
    except ServiceError as error:
        raise LoadError(f"its first inference failed: {error}") from error
