"""From an artifact to sessions that have worked: one for each instance, opened, timed and warmed up. Blocks; for a thread."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from normserve_proto.tensors import Array

from normserve_server import config_signature, devices, placement, room, warm_up, warm_up_requests
from normserve_server.accelerators.opened import Accelerators
from normserve_server.calls import now
from normserve_server.devices import Device
from normserve_server.errors import LoadError
from normserve_server.model_config import ModelConfig
from normserve_server.reshaping import Reshaped
from normserve_server.restarting import Restarting
from normserve_server.servable import Servable, Signature
from normserve_server.session import OnnxSession
from normserve_server.settings import Settings

if TYPE_CHECKING:
    from normserve_server.joined import Joined

# A shorter run gets one thread: sharing it out gains microseconds, and the threads that then spin for the next one take the
# cores from gRPC and from every other model (a run of 40 us, 16 callers, two cores: 1,840 requests/s with two threads, 2,820
# with one).
SMALL_RUN_SECONDS = 5e-4

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A model on a device, that has worked.

    Attributes:
        servable: the model, as clients see it.
        device: where it runs.
        seconds: what one sample takes; infinity where that is not known.
        warm_up_seconds: that the first inferences took.
        threads: within one operator; 0 for one per core.
        buckets: sizes that batches are padded to; empty for no padding.
        sample: inputs that it takes; None where an extent beyond the batch's is not known and no warm-up is configured.
    """

    servable: Servable
    device: Device
    threads: int
    buckets: tuple[int, ...]
    sample: Mapping[str, Array] | None
    seconds: float = math.inf
    warm_up_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens the sessions of one version.

    Attributes:
        file: the artifact.
        folder: the model's, which holds the data of its warm-up requests.
        config: says how many instances, where, and with how many threads.
        settings: says it where the config does not.
        accelerators: the devices.
        tell: called, on any thread, with what became of a GPU's sessions: "cuda_graphs" where they run without,
            or what `restarting` says.
    """

    file: Path
    folder: Path
    config: ModelConfig
    settings: Settings
    accelerators: Accelerators = field(default_factory=Accelerators)
    tell: Callable[[str], None] = lambda _: None

    def open_all(self, default: Device) -> list[Opened]:
        """Opens the model once for each instance; those on the CPU share a session, which any number of threads may run.

        Args:
            default: where instances run that want no other device.

        Raises:
            LoadError: a device is missing or has no room, the file cannot be served, or a warm-up failed.
        """
        places = placement.place(self.config.instances, default)
        instances = sum(place.provider == devices.CPU for place in places)
        everywhere = max(instances, 1) * self.settings.workers
        opened: list[Opened] = []
        for place in places:
            shared = [one for one in opened if one.device == place and place.provider == devices.CPU]
            opened += shared[:1] or [self._open_for_good(place, everywhere)]
        return opened

    def _open_for_good(self, device: Device, instances: int) -> Opened:
        opened = self._open_warm(device, instances)
        if not self.accelerators.of(device).apart:
            return opened

        def reopen() -> Servable:
            if not self.settings.restart_sessions:
                raise LoadError("restart_sessions is off")
            return self._open_warm(device, instances).servable

        return replace(opened, servable=Restarting(opened.servable, reopen, self.tell))

    def _open_warm(self, device: Device, instances: int) -> Opened:
        """Opens a session and runs it; again with one thread where it turns out to be small and nobody has said how many."""
        given = self.config.threads or self.settings.intra_op_threads
        accelerator = self.accelerators.of(device)
        with room.told(accelerator):
            room.check(self.file, accelerator, self.settings.gpu_mem_limit)
            opened, session = self._open(device, placement.threads(given, instances))
            opened = _timed(opened)
            small = opened.seconds <= SMALL_RUN_SECONDS and device.provider == devices.CPU
            if not given and opened.threads != 1 and small:
                opened, session = self._open(device, 1)
                opened = _timed(opened)
            began = now()
            _warm(opened, self.folder, self.config)
        session.leave()
        session.captured_sizes = (opened.buckets or (1,)) if self.settings.cuda_graphs else ()
        return replace(opened, warm_up_seconds=opened.warm_up_seconds + now() - began)

    def _open(self, device: Device, threads: int) -> tuple[Opened, OnnxSession]:
        session = OnnxSession(
            self.file,
            self.accelerators.of(device),
            threads=threads,
            max_batch_size=self.config.max_batch_size,
            default_max_batch_size=self.settings.default_max_batch_size,
            graph_optimization=self.config.graph_optimization,
            tuning=self.settings.tuning,
            fallen_back=self.tell,
        )
        servable = _as_configured(session, self.config)
        configured = warm_up_requests.read(self.folder, self.config, servable.signature)
        sample = warm_up.zeros(servable.signature) or (configured[0].inputs if configured else None)
        return Opened(servable, device, threads, _buckets(servable.signature, self.config, device), sample), session


def _timed(opened: Opened) -> Opened:
    inputs, began = warm_up.zeros(opened.servable.signature), now()
    if inputs is None:
        return opened
    return replace(opened, seconds=warm_up.seconds_per_run(opened.servable, inputs), warm_up_seconds=now() - began)


def _as_configured(session: OnnxSession, config: ModelConfig) -> Servable:
    signature = config_signature.narrowed(session.signature, config)
    servable = _joined(session, config) if config.operators else session
    if config.input_reshapes or config.output_reshapes:
        return Reshaped(servable, signature, config.input_reshapes, config.output_reshapes)
    servable.signature = signature
    return servable


def _joined(session: OnnxSession, config: ModelConfig) -> "Joined":
    from normserve_server import joining  # noqa: PLC0415 - it imports torch, which few models want

    return joining.joined(session, config.operators)


def _buckets(signature: Signature, config: ModelConfig, device: Device) -> tuple[int, ...]:
    """As configured, else powers of two on a GPU, which searches anew for each new size."""
    most = signature.max_batch_size
    if not most or config.batching.buckets is not None:
        return config.batching.buckets or ()
    if device.provider == devices.CPU:  # a batch of any size runs as well, and padding is work for nothing
        return ()
    return (*itertools.takewhile(lambda size: size < most, (2**power for power in itertools.count())), most)


def _warm(opened: Opened, folder: Path, config: ModelConfig) -> None:
    """Runs every bucket once, and what the config wants to be run."""
    servable = opened.servable
    if opened.sample is None:
        _log.info("no warm-up: extents beyond the batch's are dynamic", model=folder.name)
    for size in opened.buckets:
        inputs = warm_up.zeros(servable.signature, size)
        if inputs is not None:
            servable.run(inputs)
    for request in warm_up_requests.read(folder, config, servable.signature):
        for _ in range(request.count):
            servable.run(request.inputs)
