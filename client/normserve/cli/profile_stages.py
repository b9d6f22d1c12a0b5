"""Where a request's time went, as stages in the order of time."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# What a stage's time is spent on. The first four are what a caller pays for; the others are waiting, and what lies outside.
COPY_IN, KERNELS, COPY_OUT, HOST, WAITING, OUTSIDE = "copy in", "kernels", "copy out", "host", "waiting", "outside"
KINDS = (COPY_IN, KERNELS, COPY_OUT, HOST, WAITING, OUTSIDE)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a request's time.

    Attributes:
        name: what happens.
        kind: one of `KINDS`.
        seconds: of a request, on the profile's average.
    """

    name: str
    kind: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Kernel:
    """All nodes of one operator that one provider runs.

    Attributes:
        operator: ONNX's name, or that of what onnxruntime made of several.
        provider: onnxruntime's execution provider.
        nodes: how many there are.
        seconds: of all of them in one run, likewise.
    """

    operator: str
    provider: str
    nodes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Where a request's time went.

    Attributes:
        subject: what was measured, and where.
        requests: that were measured, > 0; and `samples` in each.
        stages: in the order of time; together the whole.
        kernels: what the model's own time went to, the most expensive first; empty where only a server was asked.
        notes: what has to be known to read the figures.
        average: of the requests, that the times are: "mean" or "median".
    """

    subject: str
    requests: int
    samples: int
    stages: Sequence[Stage]
    kernels: Sequence[Kernel] = ()
    notes: Sequence[str] = ()
    average: str = "mean"

    @property
    def seconds(self) -> float:
        """Of a request."""
        return sum(stage.seconds for stage in self.stages)

    def by_kind(self) -> dict[str, float]:
        """The seconds of a request by what they were spent on; kinds that no stage has are left out."""
        kinds = [kind for kind in KINDS if any(stage.kind == kind for stage in self.stages)]
        return {kind: sum(stage.seconds for stage in self.stages if stage.kind == kind) for kind in kinds}

    def as_json(self) -> dict[str, Any]:
        """All of it, for JSON; times in seconds."""
        return {**asdict(self), "seconds": self.seconds, "by_kind": self.by_kind()}
