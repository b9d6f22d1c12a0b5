"""The CPU: sessions read and write the host's memory itself, so nothing has to be copied, and nothing waits."""

import os
from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
from normserve_proto.tensors import Array

from normserve_server.accelerators.interface import Memory
from normserve_server.accelerators.tuning import Tuning
from normserve_server.calls import now
from normserve_server.devices import CPU, Device


class HostEvent:
    """An `Event` of a lane that is never behind."""

    def __init__(self) -> None:
        self._moment = now()

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def seconds_since(self, earlier: "HostEvent") -> float:
        """As the interface has it."""
        return self._moment - earlier._moment


class HostLane:
    """A `Lane` that does everything at once."""

    def copy_in(self, memory: Memory, array: Array) -> None:
        """Copies."""
        memory.owner[: array.nbytes] = array.reshape(-1).view(np.uint8)

    def copy_out(self, array: Array, memory: Memory) -> None:
        """Copies."""
        array.reshape(-1).view(np.uint8)[:] = memory.owner[: array.nbytes]

    def run(self, enqueue: Callable[[], None], graph: int | None = None) -> None:
        """Runs."""
        enqueue()

    def record(self) -> HostEvent:
        """Notes the time."""
        return HostEvent()

    def wait(self, event: HostEvent) -> None:
        """Has happened already."""


class Host:
    """The `Accelerator` that every machine has."""

    device = Device(CPU)
    apart = False
    where = ("cpu", 0)
    capturing = Lock()

    def staging(self, nbytes: int) -> Array:
        """Gives memory."""
        return np.empty(nbytes, np.uint8)

    def memory(self, nbytes: int) -> Memory:
        """Gives memory; its owner is an array of it."""
        array = self.staging(nbytes)
        return Memory(array.ctypes.data, nbytes, "cpu", 0, array)

    def lane(self) -> HostLane:
        """Makes a lane."""
        return HostLane()

    def providers(self, tuning: Tuning, lane: HostLane) -> list[Any]:
        """The CPU alone."""
        return [CPU]

    def free_and_total_bytes(self) -> tuple[int, int]:
        """As the system tells; what it would take back from its caches does not count."""
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page

    def broken(self) -> None:
        """Never: a machine whose memory fails says nothing any more."""

    def give_back(self) -> None:
        """Nothing is kept here; see `memory.give_back`."""
