"""A device of host memory that does what it is told as late as it may, so that a wait that was forgotten gives wrong numbers.

Sessions on it are CPU sessions that read and write its memory, which is filled with ones (0xFF) to begin with. A copy happens
only when somebody waits for an event behind it, and reads and writes what the memory holds at that time. A session's run reads
its inputs at once, after what its lane was told to wait for; what it writes is in the device's memory no earlier than a copy.
"""

import ctypes
import math
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
from normserve_server.accelerators.interface import DeviceMemoryError, Memory
from normserve_server.calls import now
from normserve_server.devices import CPU, CUDA, Device
from onnxruntime.capi import _pybind_state, onnxruntime_pybind11_state


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
            self._lane.accelerator.check(self._lane.number)
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
        self._order("copy in", array, lambda: self._copy(_bytes(memory)[: array.nbytes], _flat(array)))

    def copy_out(self, array, memory):
        self._order("copy out", array, lambda: self._copy(_flat(array), _bytes(memory)[: array.nbytes]))

    def run(self, enqueue, graph=None):
        with self.accelerator.turn:
            self.note("run", graph)
            self.accelerator.check(self.number)
            if graph is not None and self.accelerator.fails_capture:
                raise RuntimeError("operation not permitted when stream is capturing")
            while self._ordered:
                self._ordered.pop(0)()
        self.accelerator.running()  # other lanes go on meanwhile
        with self.accelerator.turn:
            self._ordered.append(self.accelerator.written_by(enqueue))

    def record(self):
        event = FakeEvent(self)
        with self.accelerator.turn:
            self.accelerator.check(self.number)
            self._ordered.append(event.come)
        return event

    def wait(self, event):
        with self.accelerator.turn:
            self.note("wait", event._lane.number)
            self._ordered.append(event.reach)

    def advance(self, event):
        while self._ordered and event._moment is None:
            self._ordered.pop(0)()

    def _order(self, what, array, copy):
        with self.accelerator.turn:
            self.note(what, array.nbytes)
            self.accelerator.check(self.number)
            self.accelerator.pageable_copies += not self.accelerator.is_staged(array)
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
        pageable_copies: how many were from or to memory that is no `staging`.
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
        self.broken_by = self._broke_by = None
        self._sound_from = 0
        self.running = self.copying_in = lambda: None
        self.clock = clock
        self.turn = threading.RLock()
        self.capturing = threading.Lock()
        self.cached_bytes = 0
        self.pageable_copies = 0
        self._staged = []
        self._blocks = []
        self._lanes = 0
        self._total_bytes = total_bytes
        self._taken_bytes = 0

    def staging(self, nbytes):
        array = np.full(nbytes, 0xFF, np.uint8)
        self._staged.append(range(array.ctypes.data, array.ctypes.data + max(nbytes, 1)))
        return array

    def is_staged(self, array):
        return any(array.ctypes.data in addresses for addresses in self._staged)

    def memory(self, nbytes):
        self.check()
        free = self._total_bytes - self._taken_bytes
        if nbytes > free:
            raise DeviceMemoryError(f"{self.device}: wanted {nbytes} bytes of memory, {free} of {self._total_bytes} are free")
        self._taken_bytes += nbytes
        block = _Block(self, nbytes)
        self._blocks.append(weakref.ref(block))
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
        return self.broken_by or self._broke_by

    def break_once(self, reason):
        """Breaks what has been opened before now, but not what is opened from now on."""
        self._broke_by, self._sound_from = reason, self._lanes

    def give_back(self):
        self._taken_bytes -= self.cached_bytes
        self.cached_bytes = 0

    def written_by(self, compute):
        """Computes, undoes what that wrote to the memory, and gives what does it again."""
        blocks = [block for block in (reference() for reference in self._blocks) if block is not None]
        before = [block.array.copy() for block in blocks]
        compute()
        after = [block.array.copy() for block in blocks]
        changed = [
            (block.array, new) for block, old, new in zip(blocks, before, after, strict=True) if not np.array_equal(old, new)
        ]
        for block, old in zip(blocks, before, strict=True):
            block.array[:] = old
        return lambda: [np.copyto(array, new) for array, new in changed]

    def check(self, lane=None):
        reason = self.broken_by or (self._broke_by if lane is not None and lane < self._sound_from else None)
        if reason is not None:
            raise RuntimeError(reason)

    def ordered(self, *kinds):
        """The journal's entries of some kinds, without the lanes' numbers."""
        return [entry[1:] for entry in self.journal if entry[1] in kinds]


def reads_on_the_host(monkeypatch, **itemsizes):
    """Has sessions read some inputs on the host: what is bound for them on the device is copied in that moment."""

    class Binding(onnxruntime_pybind11_state.SessionIOBinding):
        def bind_input(self, name, device, element, shape, pointer):
            if name in itemsizes:
                size = math.prod(shape) * itemsizes[name]
                copies.append(np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), np.uint8).copy())
                pointer = copies[-1].ctypes.data
            super().bind_input(name, device, element, shape, pointer)

    def infos(session):
        return [SimpleNamespace(name="elsewhere" if node.name in itemsizes else "Cpu") for node in session.get_inputs()]

    copies = []
    monkeypatch.setattr(ort.InferenceSession, "get_input_memory_infos", infos)
    for module in (_pybind_state, onnxruntime_pybind11_state):
        monkeypatch.setattr(module, "SessionIOBinding", Binding)


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
