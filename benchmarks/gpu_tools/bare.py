"""onnxruntime alone in this process, driven as one would by hand: the service's ceiling."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort
from normserve_server.accelerators.interface import Accelerator
from normserve_server.accelerators.tuning import Tuning
from normserve_server.calls import now
from normserve_server.profiling.bench import Bench
from normserve_server.profiling.subject import Subject

LAPS_AT_ONCE = 8  # that are ordered before the host waits, so that it does not hold the device up


@dataclass(frozen=True)
class Rate:
    """What one batch size gave.

    Attributes:
        size: of the batches.
        per_second: samples a second.
        tuning: how the GPU was used.
    """

    size: int
    per_second: float
    tuning: Tuning


class Bare(Bench):
    """A session whose inputs are on the device already."""

    def seconds(self, seconds: float) -> float:
        """Runs for about so long, and gives the seconds of one run."""
        runs, began = 0, now()
        while now() - began < seconds:
            for _ in range(LAPS_AT_ONCE):
                self.order()
            self._lane.record().synchronize()
            runs += LAPS_AT_ONCE
        return (now() - began) / runs


def best(path: Path, sizes: Sequence[int], accelerator: Accelerator, tuning: Tuning, seconds: float) -> Rate:
    """The batch size that gives the most samples a second.

    Args:
        path: the file.
        sizes: to try.
        accelerator: where.
        tuning: how a GPU is used.
        seconds: for each size.

    Raises:
        Exception: onnxruntime or the device failed, as where a graph cannot be captured.
    """
    rates = []
    for size in sizes:
        bench = _bare(path, size, accelerator, tuning)
        for _ in range(3):  # the first pays for all, the next may capture
            bench.lap()
        rates.append(Rate(size, size / bench.seconds(seconds), tuning))
    return max(rates, key=lambda rate: rate.per_second)


def median_lap(path: Path, accelerator: Accelerator, tuning: Tuning, laps: int) -> float:
    """The seconds of one sample's way to the device, through the network, and back; the median."""
    bench = _bare(path, 1, accelerator, tuning)
    times = [bench.lap() for _ in range(laps + 3)][3:]
    return statistics.median(sum((lap.copy_in, lap.run, lap.copy_out, lap.host)) for lap in times)


def _bare(path: Path, size: int, accelerator: Accelerator, tuning: Tuning) -> Bare:
    subject = Subject(path, {}, size, 1, 0, tuning)
    return Bare(subject, accelerator, ort.SessionOptions(), number=1 if tuning.cuda_graphs else None)
