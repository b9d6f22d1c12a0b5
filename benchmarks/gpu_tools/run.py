"""One run of the benchmark: how much of everything, and what its questions share."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import FrameType

from normserve_server import devices
from normserve_server.accelerators.interface import Accelerator
from normserve_server.accelerators.opened import open_one
from normserve_server.accelerators.tuning import Tuning

from gpu_tools import bare, networks
from gpu_tools.bare import Rate
from gpu_tools.networks import Network

PLAIN = Tuning()
TUNINGS = tuple(  # with graphs may not be possible
    replace(tuning, tf32=tf32)
    for tuning in (Tuning(prefer_nhwc=True, cuda_graphs=True), Tuning(prefer_nhwc=True), PLAIN)
    for tf32 in (False, True)
)


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        device: as the server's setting.
        network: a function of `networks`.
        buckets: batch sizes, ascending; batches are padded to them.
        workers: serving processes to try.
        processes: that make the load, each with `callers` calls under way.
        callers: in each of them.
        seconds: length of a measurement.
        laps: of what is measured one by one.
        operator_bytes: size of the tensors that are normalized.
        rival: torch.compile's mode; "eager" for none.
        most_seconds: for all questions together.
    """

    device: str
    network: str
    buckets: tuple[int, ...]
    workers: tuple[int, ...]
    processes: int
    callers: int
    seconds: float
    laps: int
    operator_bytes: int
    rival: str
    most_seconds: float


REAL = Scale("cuda:0", "resnet50", (1, 8, 16, 32, 64), (1, 2, 4), 4, 32, 3.0, 200, 2**28, "max-autotune", 440.0)
REHEARSAL = Scale("cpu", "small", (1, 2, 4), (1,), 1, 2, 0.1, 5, 2**20, "eager", 440.0)


class OutOfTimeError(Exception):
    """The time for all questions is over."""


@contextmanager
def limited(seconds: float) -> Iterator[Callable[[], float]]:
    """Ends what is under way in it with OutOfTimeError when its time is over; gives how many seconds there still are."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError(f"{seconds:.0f} s were over")

    until = time.monotonic() + seconds
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield lambda: until - time.monotonic()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Run:
    """What the questions share.

    Args:
        scale: how much of everything.
        folder: for files.
        left: how many seconds there still are.
    """

    def __init__(self, scale: Scale, folder: Path, left: Callable[[], float]) -> None:
        self.scale = scale
        self.folder = folder
        self.left = left

    @cached_property
    def network(self) -> Network:
        """The network."""
        made: Network = getattr(networks, self.scale.network)()
        return made

    @cached_property
    def repository(self) -> Path:
        """A repository with the network, and nothing else."""
        repository = self.folder / "repository"
        self.network.write(repository, self.scale.buckets)
        return repository

    @property
    def file(self) -> Path:
        """The network's file."""
        return self.repository / self.network.name / "1" / "model.onnx"

    @cached_property
    def accelerator(self) -> Accelerator:
        """The device in this process."""
        return open_one(devices.choose(self.scale.device))

    @cached_property
    def best(self) -> Rate:
        """The best that onnxruntime alone gives, of all tunings that work and all batch sizes."""
        rates, problems = [], []
        for tuning in TUNINGS:
            try:
                rates.append(bare.best(self.file, self.scale.buckets, self.accelerator, tuning, self.scale.seconds / 2))
            except Exception as error:  # noqa: BLE001 - where a graph cannot be captured, onnxruntime may raise anything
                problems.append(error)
        if not rates:
            raise problems[-1]
        return max(rates, key=lambda rate: rate.per_second)
