"""One call on its way through the server: its deadline, its labels, and how long each phase took."""

import time
from dataclasses import dataclass, field

from normserve_server.statistics import Laps, Statistics

now = time.perf_counter  # the one clock of the service: monotonic, seconds


@dataclass(slots=True)
class Call:
    """What a handler knows of its call besides the message.

    Attributes:
        method: the RPC's name.
        deadline: when the caller stops waiting, by `now`; None for never.
        model: the metric label, set once the model is known to exist; and `version` likewise.
        request_id: what the caller named the request, once that is read.
        statistics: the version's, once it is known that the call wants an inference of it.
        admitted_bytes: of its message, and of its answer once there is one.
        phases: seconds in each phase that the call has left.
        started: when its message came, by `now`.
        samples: how many ran for it; and `laps`, how long the parts of that run took, None where nothing ran.
    """

    method: str
    deadline: float | None = None
    model: str = ""
    version: str = ""
    request_id: str = ""
    statistics: Statistics | None = None
    admitted_bytes: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=now)
    samples: int = 0
    laps: Laps | None = None
    mark: float = field(init=False)

    def __post_init__(self) -> None:
        self.mark = self.started

    def lap(self, phase: str) -> None:
        """Ends a phase now: it began where the one before ended."""
        self.lap_at(phase, now())

    def lap_at(self, phase: str, moment: float) -> None:
        """Ends a phase at `moment`, seconds by `now`."""
        self.phases[phase] = self.phases.get(phase, 0.0) + moment - self.mark
        self.mark = moment
