"""From a version's folder to something that serves: config, artifact, sessions, warm-up. None runs on the serving loop."""

import asyncio
import math
from dataclasses import dataclass
from pathlib import Path

import structlog

from normserve_server import devices, model_config, preparation, warm_up
from normserve_server.batching import Batcher
from normserve_server.devices import Device
from normserve_server.errors import ServiceError
from normserve_server.instance import Instance
from normserve_server.metrics import Metrics
from normserve_server.model_config import ModelConfig
from normserve_server.preparation import Artifact
from normserve_server.session import LoadError, OnnxSession
from normserve_server.settings import Settings
from normserve_server.version import Loaded
from normserve_server.workers import Worker

CONCURRENT_LOADS = 2  # each may run a child that uses every core
# A shorter run gets one thread: sharing it out gains microseconds, and the threads that then spin for the next one take the
# cores from gRPC and from every other model (a run of 40 us, 16 callers, two cores: 1,840 requests/s with two threads, 2,820
# with one).
SMALL_RUN_SECONDS = 5e-4

_log = structlog.get_logger(__name__)


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

    async def load(self, folder: Path, labels: tuple[str, str]) -> Loaded:
        """Loads the version in `folder`.

        Args:
            folder: `<repository>/<model>/<version>`.
            labels: model and version, for metrics and the thread's name.

        Raises:
            LoadError: it cannot be served; the text says why.
        """
        async with self.turns:
            config = await asyncio.to_thread(model_config.read, folder.parent)
            artifact = await self._artifact(folder / config.filename)
            session, seconds = await asyncio.to_thread(self._open_warm, artifact, config)
        worker = Worker("-".join(labels))
        instance = Instance(session, worker, seconds)
        batcher = Batcher(
            [instance],
            max_batch_size=session.signature.max_batch_size,
            max_queue_size=self.settings.max_queue_size,
            batch_sizes=self.metrics.batch_size.labels(*labels),
        )
        return Loaded(session, batcher, artifact.report)

    async def _artifact(self, source: Path) -> Artifact:
        if not self.settings.fold:
            return Artifact(source)
        return await preparation.prepare(source, self.settings.cache_dir, self.engine)

    def _open_warm(self, artifact: Artifact, config: ModelConfig) -> tuple[OnnxSession, float]:
        """Opens a session and runs it; gives it with the seconds that one sample takes, infinity where that is not known."""
        session, seconds = self._timed(artifact, config, self.settings.session_threads)
        if self.settings.intra_op_threads or seconds > SMALL_RUN_SECONDS or self.device.provider != devices.CPU:
            return session, seconds
        return self._timed(artifact, config, 1)

    def _timed(self, artifact: Artifact, config: ModelConfig, threads: int) -> tuple[OnnxSession, float]:
        session = self._open(artifact, config, threads)
        inputs = warm_up.zeros(session.signature)
        if inputs is None:
            _log.info("no warm-up: extents beyond the batch's are dynamic", file=str(artifact.path))
            return session, math.inf
        try:
            return session, warm_up.seconds_per_run(session, inputs)
        except ServiceError as error:
            raise LoadError(f"its first inference failed: {error}") from error

    def _open(self, artifact: Artifact, config: ModelConfig, threads: int) -> OnnxSession:
        return OnnxSession(
            artifact.path,
            self.device,
            threads=threads,
            max_batch_size=config.max_batch_size,
            default_max_batch_size=self.settings.default_max_batch_size,
        )
