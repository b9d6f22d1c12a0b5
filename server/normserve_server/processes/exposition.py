"""What /metrics shows of several workers: what they count, added up, and each one's process."""

import os
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import Metric, ProcessCollector
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from normserve_server import exemplars
from normserve_server.state import State

REQUEST_SECONDS = "normserve_request_duration_seconds"
SUPERVISOR = "supervisor"
TRIES = 3


class Merged(Collector):
    """The workers' files, added up.

    A series cannot be taken out of a file, so those of versions that no worker knows any more are left out here.

    Args:
        folder: where the files are.
        state: gives the service's state as it was last asked for.
    """

    def __init__(self, folder: Path, state: Callable[[], State]) -> None:
        self._files = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """Reads all files."""
        state = self._state()
        versions = state.models.keys()
        known = {"", *versions, *(name.rpartition("/")[0] for name in versions)}
        for family in self._read():
            family.samples = [sample for sample in family.samples if _about(sample) in known]
            if family.name == REQUEST_SECONDS and state.exemplars:
                exemplars.attach(family, state.exemplars)
            yield family

    def _read(self) -> Iterable[Metric]:
        for _ in range(TRIES - 1):
            try:
                return self._collected()
            except struct.error:  # a file that a worker has just made, and not yet written to
                continue
        return self._collected()

    def _collected(self) -> Iterable[Metric]:
        families: Iterable[Metric] = self._files.collect()  # type: ignore[no-untyped-call]
        return families


class Processes(Collector):
    """`process_*` of each process, by `worker`.

    Args:
        pids: gives the workers' process ids by the label's value.
    """

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids

    def collect(self) -> Iterable[Metric]:
        """Reads what the system says of each process."""
        families: dict[str, Metric] = {}
        for name, pid in ({SUPERVISOR: os.getpid()} | dict(self._pids())).items():
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                own = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    own.add_sample(sample.name, {"worker": name}, sample.value)
        return families.values()


def _about(sample: Sample) -> str:
    """What a sample is of: "model/version", "model", or nothing of both."""
    model = sample.labels.get("model", "")
    return f"{model}/{sample.labels['version']}" if model and "version" in sample.labels else model
