"""What the supervisor tells a worker when it starts it: one line of JSON on the worker's standard input, which then stays open.

The end of that input is the end of the supervisor: see `worker`.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from normserve_server.machine import cores
from normserve_server.settings import Settings

if TYPE_CHECKING:
    import grpc

CONTROL = "normserve.Control"  # the supervisor's service
WORKER = "normserve.Worker"  # a worker's, on its private socket

# The RPCs of `inference.GRPCInferenceService` that change what every worker holds, or add up what all of them know.
SHARED = frozenset(
    {
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
        "ModelStatistics",
    }
)

DRAIN_MORE_SECONDS = 9.0  # that a worker's drain takes beside its two settings, at most

Ask: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"

# Of messages between the processes. They connect again at once: the other end is on this machine, or is being started.
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # or a new worker would inherit the back-off of the one before
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 5000),  # of an attempt, which a busy machine may draw out
    ("grpc.max_reconnect_backoff_ms", 200),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's place in the service.

    Attributes:
        slot: its number, from 0; a worker that replaces another has the other's.
        port: the gRPC port that all share.
        folder: of the sockets and of the files through which metrics are merged; only this user may look into it.
        late: whether the others serve already: then it takes no calls before it can answer them.
        settings: the service's.
    """

    slot: int
    port: int
    folder: Path
    late: bool
    settings: Settings

    @property
    def control(self) -> str:
        """The supervisor's address."""
        return f"unix:{self.folder}/control"

    @property
    def private(self) -> str:
        """The worker's own address, for the supervisor."""
        return f"unix:{self.folder}/{self.slot}"

    @property
    def metrics(self) -> Path:
        """The folder of prometheus_client's files."""
        return self.folder / "metrics"

    @property
    def scratch(self) -> Path:
        """The folder of temporary files, such as those that come in a load; a worker that replaces another finds it empty."""
        return self.folder / f"{self.slot}.tmp"

    @property
    def last_words(self) -> Path:
        """The file in which a worker that cannot start says why."""
        return self.folder / f"{self.slot}.error"

    def packed(self) -> bytes:
        """Gives the line that `unpacked` reads."""
        told = {"slot": self.slot, "port": self.port, "folder": str(self.folder), "late": self.late}
        return json.dumps(told | {"settings": self.settings.model_dump(mode="json")}).encode() + b"\n"


def unpacked(line: bytes) -> Place:
    """Reads what `Place.packed` gave."""
    told = json.loads(line)
    settings = Settings.model_validate(told["settings"])
    return Place(told["slot"], told["port"], Path(told["folder"]), told["late"], settings)


def drain_seconds(settings: Settings) -> float:
    """How long a worker's drain takes at most."""
    return settings.drain_delay_seconds + settings.drain_timeout_seconds + DRAIN_MORE_SECONDS


def environment(place: Place) -> dict[str, str]:
    """The variables of a worker's process: the supervisor's, and those that libraries read when they are loaded."""
    own = {"TMPDIR": str(place.scratch)}
    if place.settings.metrics:
        own["PROMETHEUS_MULTIPROC_DIR"] = str(place.metrics)
    share = max(1, cores() // place.settings.workers)
    threads = {"OMP_NUM_THREADS": str(share)}  # torch's; a setting of the user's wins
    return threads | os.environ | own
