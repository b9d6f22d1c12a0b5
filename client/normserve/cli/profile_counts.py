"""What a server has counted of one version's requests, by its statistics and its metrics."""

import http.client
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from normserve.client import Client

METRICS_SECONDS = 10.0  # longest wait for the metrics

_PHASE = re.compile(r"^normserve_phase_duration_seconds_sum\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Counted:
    """What a server has counted of one version, in seconds, since it was loaded; or what came on top between two readings.

    Attributes:
        requests: answered.
        total: from arrival to answer.
        queue: waits; and `copy_in`, `kernels` and `copy_out`, the parts of the runs.
        phases: by name; empty where the server has no metrics.
    """

    requests: int
    total: float
    queue: float
    copy_in: float
    kernels: float
    copy_out: float
    phases: Mapping[str, float]

    def since(self, before: "Counted") -> "Counted":
        """What came on top of `before`."""
        phases = {name: seconds - before.phases.get(name, 0.0) for name, seconds in self.phases.items()}
        parts = {name: getattr(self, name) - getattr(before, name) for name in self.__slots__ if name != "phases"}
        return Counted(**parts, phases=phases)

    def each(self) -> "Counted":
        """The same for one request."""
        parts = {name: getattr(self, name) / self.requests for name in self.__slots__ if name not in {"phases", "requests"}}
        return Counted(1, **parts, phases={name: seconds / self.requests for name, seconds in self.phases.items()})


def read(client: Client, model: str, version: str, http_base: str) -> Counted:
    """Asks a server.

    Args:
        client: of the server.
        model: its name.
        version: an integer in decimal.
        http_base: the server's HTTP address, `http://host:port`; without it, or without metrics there, there are no phases.

    Raises:
        NormserveError: the server refused.
    """
    (told,) = client.statistics(model, version)
    return Counted(
        told.success.count,
        told.success.seconds,
        told.queue.seconds,
        told.compute_input.seconds,
        told.compute_infer.seconds,
        told.compute_output.seconds,
        _phases(http_base, model, version),
    )


def _phases(http_base: str, model: str, version: str) -> dict[str, float]:
    """The seconds in each phase of all the version's ModelInfer calls; empty where the server has no metrics."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{http_base}/metrics", timeout=METRICS_SECONDS) as answer:
            text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return {}
    found = ((dict(_LABEL.findall(labels)), float(seconds)) for labels, seconds in _PHASE.findall(text))
    wanted = {"method": "ModelInfer", "model": model, "version": version}
    return {labels["phase"]: seconds for labels, seconds in found if wanted.items() <= labels.items()}
