"""A device of host memory that does what it is told as late as it may, so that a wait that was forgotten gives wrong numbers.

Sessions on it are CPU sessions that read and write its memory, which is filled with ones (0xFF) to begin with. A copy happens
only when somebody waits for an event behind it, and reads and writes what the memory holds at that time. A session's run
happens at once, but only after what its lane was told to wait for.
"""

import ctypes
import threading

import numpy as np
from normserve_server.accelerators.interface import DeviceMemoryError, Memory
from normserve_server.calls import now
from normserve_server.devices import CPU, CUDA, Device


class FakeEvent:
    def __init__(self, lane):
        self._lane = lane
        self._moment = None

    def come(self):
        self._moment = self._lane.accelerator.clock()

    def reach(self):
        """Has the lane do everything up to here."""
        if self._moment is None:
            self._lane.advance(self)

    def synchronize(self):
        with self._lane.accelerator.turn:
            self._lane.note("synchronize")
            self._lane.accelerator.check()
            self.reach()

    def seconds_since(self, earlier):
        return self._moment - earlier._moment


class FakeLane:
    def __init__(self, accelerator, number):
        self.accelerator = accelerator
        self.number = number
        self._ordered = []

    def note(self, what, *details):
        self.accelerator.journal.append((self.number, what, *details))

    def copy_in(self, memory, array):
        self.accelerator.copying_in()
        self._order("copy in", array.nbytes, lambda: self._copy(_bytes(memory)[: array.nbytes], _flat(array)))

    def copy_out(self, array, memory):
        self._order("copy out", array.nbytes, lambda: self._copy(_flat(array), _bytes(memory)[: array.nbytes]))

    def run(self, enqueue, graph=None):
        with self.accelerator.turn:
            self.note("run", graph)
            self.accelerator.check()
            if graph is not None and self.accelerator.fails_capture:
                raise RuntimeError("operation not permitted when stream is capturing")
            while self._ordered:
                self._ordered.pop(0)()
        self.accelerator.running()  # other lanes go on meanwhile
        enqueue()

    def record(self):
        event = FakeEvent(self)
        with self.accelerator.turn:
            self.accelerator.check()
            self._ordered.append(event.come)
        return event

    def wait(self, event):
        with self.accelerator.turn:
            self.note("wait", event._lane.number)
            self._ordered.append(event.reach)

    def advance(self, event):
        while self._ordered and event._moment is None:
            self._ordered.pop(0)()

    def _order(self, what, nbytes, copy):
        with self.accelerator.turn:
            self.note(what, nbytes)
            self.accelerator.check()
            self._ordered.append(copy)

    def _copy(self, target, source):
        target[:] = source


class FakeAccelerator:
    """The device.

    Args:
        index: its number.
        total_bytes: how much memory it has.
        clock: what events are timed by, in seconds.

    Attributes:
        running: called before each run; where it blocks, the device computes for long.
        copying_in: called before each copy to the device is ordered.
        journal: what was ordered: the lane's number, what, and how many bytes, which lane's event or which graph.
        fails_capture: whether runs that are to be captured fail.
        broken_by: why nothing works any more; None while all does. A test may set it at any time.
        cached_bytes: freed memory that it has kept; `give_back` returns it.
    """

    apart = True
    where = ("cpu", 0)

    def __init__(self, index=0, *, total_bytes=2**30, clock=now):
        self.device = Device(CUDA, index)
        self.journal = []
        self.fails_capture = False
        self.broken_by = None
        self.running = self.copying_in = lambda: None
        self.clock = clock
        self.turn = threading.RLock()
        self.cached_bytes = 0
        self._lanes = 0
        self._total_bytes = total_bytes
        self._taken_bytes = 0

    def staging(self, nbytes):
        return np.full(nbytes, 0xFF, np.uint8)

    def memory(self, nbytes):
        self.check()
        free = self._total_bytes - self._taken_bytes
        if nbytes > free:
            raise DeviceMemoryError(f"{self.device}: wanted {nbytes} bytes of memory, {free} of {self._total_bytes} are free")
        self._taken_bytes += nbytes
        block = _Block(self, nbytes)
        return Memory(block.array.ctypes.data, nbytes, *self.where, block)

    def lane(self):
        self._lanes += 1
        return FakeLane(self, self._lanes - 1)

    def providers(self, tuning, lane):
        self.journal.append((lane.number, "providers", tuning))
        return [CPU]

    def free_and_total_bytes(self):
        return self._total_bytes - self._taken_bytes, self._total_bytes

    def broken(self):
        return self.broken_by

    def give_back(self):
        self._taken_bytes -= self.cached_bytes
        self.cached_bytes = 0

    def check(self):
        if self.broken_by is not None:
            raise RuntimeError(self.broken_by)

    def ordered(self, *kinds):
        """The journal's entries of some kinds, without the lanes' numbers."""
        return [entry[1:] for entry in self.journal if entry[1] in kinds]


class _Block:
    """Memory that its device keeps when it is freed, until it is told to give it back."""

    def __init__(self, accelerator, nbytes):
        self.array = np.full(max(nbytes, 1), 0xFF, np.uint8)
        self._accelerator = accelerator
        self._nbytes = nbytes

    def __del__(self):
        self._accelerator.cached_bytes += self._nbytes


def _bytes(memory):
    if isinstance(memory.owner, _Block):
        return memory.owner.array
    return np.frombuffer((ctypes.c_uint8 * memory.nbytes).from_address(memory.pointer), np.uint8)


def _flat(array):
    return array.reshape(-1).view(np.uint8)
