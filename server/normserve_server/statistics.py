"""What the protocol's ModelStatistics tells of one version: counts and times, added up since it was loaded."""

import time
from collections import defaultdict
from collections.abc import Sequence  # noqa: TC003 - of a method of a NamedTuple
from dataclasses import dataclass, field
from typing import NamedTuple


class Laps(NamedTuple):
    """How long the parts of one run took, in seconds.

    Attributes:
        input: putting the batch together, and copying it to a device of its own memory.
        infer: the model itself.
        output: copying the outputs from such a device, and taking them apart.
    """

    input: float
    infer: float
    output: float

    @classmethod
    def together(cls, several: "Sequence[Laps]") -> "Laps":
        """Adds up runs, part by part."""
        return cls(*map(sum, zip(*several, strict=True)))


@dataclass(slots=True)
class Total:
    """How often something happened, and for how many seconds altogether."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Adds `count` more times, which took `seconds` together."""
        self.count += count
        self.seconds += seconds


@dataclass(slots=True)
class RunTotals:
    """Totals of the parts of runs; `Laps` added up."""

    input: Total = field(default_factory=Total)
    infer: Total = field(default_factory=Total)
    output: Total = field(default_factory=Total)

    def add(self, laps: Laps, count: int = 1) -> None:
        """Adds `count` more runs, whose parts took `laps` together."""
        self.input.add(laps.input, count)
        self.infer.add(laps.infer, count)
        self.output.add(laps.output, count)


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

    def executed(self, samples: int, laps: Laps, runs: int = 1) -> None:
        """Notes runs of `samples` samples each, whose parts took `laps` together."""
        self.executions += runs
        self.batches[samples].add(laps, runs)

    def answered(self, samples: int, queue_seconds: float, laps: Laps, total_seconds: float, requests: int = 1) -> None:
        """Notes answered requests; samples and times are those of all of them."""
        self.success.add(total_seconds, requests)
        self.queue.add(queue_seconds, requests)
        self.compute.add(laps, requests)
        self.samples += samples
        self.last_inference_ms = time.time_ns() // 1_000_000  # a date for people: nothing is measured with it

    def failed(self, total_seconds: float, requests: int = 1) -> None:
        """Notes requests that were not answered."""
        self.fail.add(total_seconds, requests)
