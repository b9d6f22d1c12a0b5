"""What one subject did in one turn, and what that is beside another subject."""

import ctypes
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serving_tools import h2load
from serving_tools.h2load import Answers, Load

WARM_UP = 0.25  # length of the first turns, whose figures are dropped, in turns
LEAST_WARM_UP_SECONDS = 0.5
LEAST_SURE = 10  # rounds, from which on the interval is narrower than the extremes
NORMAL_95 = 1.96  # standard deviations of a normal distribution on either side, which hold 95 % of it


@dataclass(frozen=True)
class Figure:
    """One turn, or the median of some.

    Attributes:
        rate: samples a second.
        p50_ms: median latency of a call, in milliseconds; `p99_ms` likewise.
        cpu_us: processor time of the server for a call, in microseconds; None where it is not a process of its own.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None = None


Turn = Callable[[float], Figure]


@dataclass(frozen=True)
class Ratio:
    """One subject's figure in units of another's, taken round by round, since rounds differ more than turns of one round.

    Attributes:
        median: over the rounds; `low` and `high` are the extremes.
        sure: what the median lies between with a confidence of 95 %; None for less than `LEAST_SURE` rounds.
    """

    median: float
    low: float
    high: float
    sure: tuple[float, float] | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The ratio that some rounds gave; the interval by order statistics, which suppose nothing of how values spread."""
        ordered = sorted(values)
        sure = None
        if len(ordered) >= LEAST_SURE:
            rank = math.floor(len(ordered) / 2 - NORMAL_95 * math.sqrt(len(ordered)) / 2)
            sure = ordered[rank], ordered[-1 - rank]
        return cls(statistics.median(ordered), ordered[0], ordered[-1], sure)

    def __str__(self) -> str:
        if self.sure is not None:
            return f"{self.median:.3f} ± {max(self.sure[1] - self.median, self.median - self.sure[0]):.3f}"
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def alternate(
    subjects: Mapping[str, Turn], *, rounds: int, seconds: float, advance: Callable[[], None]
) -> dict[str, list[Figure]]:
    """Gives each subject a turn in every round, back and forth, so that a drift of the machine is nobody's gain.

    Args:
        subjects: takes the seconds that a turn lasts.
        rounds: beside a short one before them, which warms up.
        seconds: of a turn.
        advance: called after each turn.
    """
    figures: dict[str, list[Figure]] = {name: [] for name in subjects}
    for round_ in range(rounds + 1):
        for name in subjects if round_ % 2 else reversed(list(subjects)):
            figure = subjects[name](seconds if round_ else warm_up_seconds(seconds))
            if round_:
                figures[name].append(figure)
            advance()
    return figures


def warm_up_seconds(seconds: float) -> float:
    """Length of a turn that warms up, for turns of that length."""
    return max(seconds * WARM_UP, LEAST_WARM_UP_SECONDS)


def remote(load: Load, pid: int) -> Turn:
    """A turn of a server process, under load."""

    def turn(seconds: float) -> Figure:
        before = cpu_seconds(pid)
        answers = h2load.run(load, seconds=seconds)
        spent = cpu_seconds(pid) - before
        rate = answer_rate(answers, load.callers, seconds)
        return _figure(rate, answers.latencies, spent / len(answers.latencies) * 1e6)

    return turn


def local(run: Callable[[], float], samples: int) -> Turn:
    """A turn in this process: `run` takes `samples` samples and returns the seconds that it took."""

    def turn(seconds: float) -> Figure:
        latencies: list[float] = []
        total = 0.0
        while total < seconds:
            latencies.append(run())
            total += latencies[-1]
        return _figure(samples * len(latencies) / total, np.array(latencies))

    return turn


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """Makes of a call one that returns the seconds it took."""

    def measured() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return measured


def answer_rate(answers: Answers, callers: int, seconds: float) -> float:
    """Answers a second, from when each caller has had one on average, to the last; answers may come a batch at a time."""
    ends = np.sort(answers.starts + answers.latencies)
    if len(ends) < 2 * callers:
        return len(ends) / seconds
    return float((len(ends) - callers) / (ends[-1] - ends[callers - 1]))


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and of all its living descendants since they started, to the microsecond."""
    clock = ctypes.c_int()
    # A tick of /proc/pid/stat is 10 ms, more than what a short turn's comparison is about.
    if error := ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise ProcessLookupError(error, os.strerror(error), str(pid))
    return time.clock_gettime(clock.value) + sum(cpu_seconds(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def median(figures: Sequence[Figure]) -> Figure:
    rows = [asdict(figure) for figure in figures]
    return Figure(**{name: _middle([row[name] for row in rows]) for name in rows[0]})


def ratio(figures: Sequence[Figure], others: Sequence[Figure], what: str) -> Ratio:
    """One subject beside another: `what` names an attribute of `Figure`."""
    each = [getattr(one, what) / getattr(other, what) for one, other in zip(figures, others, strict=True)]
    return Ratio.of(each)


def _middle(values: list[Any]) -> Any:
    return None if None in values else statistics.median(values)


def _figure(rate: float, latencies: NDArray[np.float64], cpu_us: float | None = None) -> Figure:
    p50, p99 = np.percentile(latencies, [50, 99])
    return Figure(rate, float(p50) * 1e3, float(p99) * 1e3, cpu_us)
