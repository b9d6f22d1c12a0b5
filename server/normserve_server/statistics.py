"""What the protocol's ModelStatistics tells of one version: counts and times, added up since it was loaded."""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple


class Laps(NamedTuple):
    """How long the parts of one run took, in seconds.

    Attributes:
        input: putting the batch together.
        infer: the model itself.
        output: taking the outputs apart.
    """

    input: float
    infer: float
    output: float


@dataclass(slots=True)
class Total:
    """How often something happened, and for how many seconds altogether."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Adds one more time."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class RunTotals:
    """Totals of the parts of runs; `Laps` added up."""

    input: Total = field(default_factory=Total)
    infer: Total = field(default_factory=Total)
    output: Total = field(default_factory=Total)

    def add(self, laps: Laps) -> None:
        """Adds one more run."""
        self.input.add(laps.input)
        self.infer.add(laps.infer)
        self.output.add(laps.output)


@dataclass(slots=True)
class Statistics:
    """Adds up one version's requests and executions; everything here happens on the event loop.

    Attributes:
        success: answered requests, from arrival to answer.
        fail: requests that were refused or failed after they were known to be this version's.
        queue: answered requests' waits.
        compute: answered requests' shares in runs; each request counts its whole run.
        batches: runs by the number of samples in them.
        samples: samples in answered requests.
        executions: runs.
        last_inference_ms: when the last answered request came, milliseconds since 1970; 0 for never.
    """

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    compute: RunTotals = field(default_factory=RunTotals)
    batches: defaultdict[int, RunTotals] = field(default_factory=lambda: defaultdict(RunTotals))
    samples: int = 0
    executions: int = 0
    last_inference_ms: int = 0

    def executed(self, samples: int, laps: Laps) -> None:
        """Notes a run of `samples` samples."""
        self.executions += 1
        self.batches[samples].add(laps)

    def answered(self, samples: int, queue_seconds: float, laps: Laps, total_seconds: float) -> None:
        """Notes an answered request."""
        self.success.add(total_seconds)
        self.queue.add(queue_seconds)
        self.compute.add(laps)
        self.samples += samples
        self.last_inference_ms = time.time_ns() // 1_000_000  # a date for people: nothing is measured with it

    def failed(self, total_seconds: float) -> None:
        """Notes a request that was not answered."""
        self.fail.add(total_seconds)
