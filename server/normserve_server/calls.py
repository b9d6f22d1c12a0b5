"""One call on its way through the server: its deadline, its labels, and how long each phase took."""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from normserve_server.statistics import Laps, Statistics
from normserve_server.trace_context import Parent

TOTAL = "total"
now = time.perf_counter  # the one clock of the service: monotonic, seconds


class Call:
    """What a handler knows of its call besides the message.

    A plain class, whose defaults are the class's: a dataclass sets each of them for every call.

    Args:
        method: the RPC's name.
        deadline: when the caller stops waiting, by `now`; None for never.

    Attributes:
        model: the metric label, set once the model is known to exist; and `version` likewise.
        request_id: what the caller named the request, once that is read.
        statistics: the version's, once it is known that the call wants an inference of it.
        admitted_bytes: of its message, and of its answer once there is one.
        started: when its message came, by `now`.
        left: the phases that the call has left; one may come again.
        moments: when the message came, and then when each of them ended, by `now`.
        samples: how many ran for it; and `laps`, how long the parts of that run took, None where nothing ran.
        ran_alone: whether that run was for it only, and is not noted anywhere else.
        cut_short: "deadline" or "cancelled" where nobody waits for its answer any more; else empty.
        batch: whom it ran with; None where it was alone.
        peer: gives its caller's address as gRPC writes it, until the call is noted; and `parent` is what its caller was at.
            Only where somebody asks for them.
        trace_id: of its trace, 32 hexadecimal digits, once it is known to be traced; None where it is not.
        traced: whether it is, where that was to be known before its end; else None.
    """

    model = ""
    version = ""
    request_id = ""
    statistics: Statistics | None = None
    admitted_bytes = 0
    samples = 0
    laps: Laps | None = None
    ran_alone = False
    cut_short = ""
    batch: "Batch | None" = None
    peer: Callable[[], str] = staticmethod(str)
    parent: Parent | None = None
    trace_id: str | None = None
    traced: bool | None = None

    def __init__(self, method: str, deadline: float | None = None) -> None:
        self.method = method
        self.deadline = deadline
        self.started = now()
        self.left: list[str] = []
        self.moments = [self.started]

    def lap(self, phase: str) -> None:
        """Ends a phase now: it began where the one before ended."""
        self.left.append(phase)
        self.moments.append(now())

    def lap_at(self, phase: str, moment: float) -> None:
        """Ends a phase at `moment`, seconds by `now`."""
        self.left.append(phase)
        self.moments.append(moment)

    def phases(self) -> dict[str, float]:
        """Gives the seconds in each phase that the call has left."""
        seconds: dict[str, float] = {}
        for phase, (began, ended) in zip(self.left, itertools.pairwise(self.moments), strict=True):
            seconds[phase] = seconds.get(phase, 0.0) + ended - began
        return seconds


class Answered(NamedTuple):
    """A call that has its answer.

    Attributes:
        call: what it was, and how long its phases took.
        code: how it ended.
        seconds: from the message's arrival to its answer.
        bytes_in: size of the message; and `bytes_out`, of the answer.
    """

    call: Call
    code: grpc.StatusCode
    seconds: float
    bytes_in: int
    bytes_out: int


class Times(NamedTuple):
    """How long each of some calls took that left the same phases.

    Attributes:
        parts: `TOTAL`, and then the phases.
        seconds: shape [parts, calls].
    """

    parts: tuple[str, ...]
    seconds: NDArray[np.float64]


class Batch:
    """Several requests that run together.

    Args:
        requests: how many.
        began: when it was cut, by `now`.

    Attributes:
        ended: when it had run, by `now`; and `samples`, how many ran. 0 while it runs.
        apart: whether it failed, and its requests ran once more, each alone.
        noted: how many of its requests have ended.
        links: to the spans of those that are traced; and `context`, of its own span.
    """

    ended = 0.0
    samples = 0
    apart = False
    noted = 0
    context: Any = None  # OpenTelemetry's, which is not imported where nothing is exported

    def __init__(self, requests: int, began: float) -> None:
        self.requests = requests
        self.began = began
        self.links: list[Any] = []
