"""Memory that a client shares with its server: one slot a call, kept for the next call.

A slot's object has a name only until the server has opened it, and its region is leased (see
`normserve_proto.shared_memory`). So however a client ends, its server forgets its regions, and nothing of it stays in /dev/shm,
but for an object that still had its name when the client was killed: the next client of that user removes it.
"""

import mmap
import os
import secrets
import threading
import weakref
from collections import deque
from pathlib import Path

import numpy as np
from normserve_proto import shared_memory as posix
from normserve_proto.tensors import Array, Buffer

MOST_SLOTS = 32  # of one client, which is how many calls can use shared memory at a time
MOST_LENT = 4  # of these, that answers are views of; whoever keeps more answers than that gets copies
ALIGNMENT = 64  # bytes, a cache line: where a tensor may begin


class Slot:
    """A shared memory object of this client.

    Args:
        byte_size: its size, > 0.

    Attributes:
        name: what the region is called at the server; never used again.
        key: the object's POSIX name.
        byte_size: likewise.
        registered: whether the server knows it.

    Raises:
        OSError: there is no shared memory here, or not enough.
    """

    def __init__(self, byte_size: int) -> None:
        self.name = f"{posix.LEASED}{os.getpid()}-{secrets.token_hex(8)}"
        self.key = f"/{self.name}"
        self.byte_size = byte_size
        self.registered = False
        descriptor = posix.create_leased(self.key)  # before it takes room: whoever is killed from here on leaves a free lock
        try:
            os.posix_fallocate(descriptor, 0, byte_size)  # now, because there is no error later on, only SIGBUS
            self._memory = mmap.mmap(descriptor, byte_size)  # holds a copy of the descriptor, and so the lease
        except BaseException:
            self.hide()
            raise
        finally:
            os.close(descriptor)

    def hide(self) -> None:
        """Takes the object's name away; whoever has it open keeps it."""
        Path(posix.path_of(self.key)).unlink(missing_ok=True)

    def write(self, offset: int, data: Buffer) -> None:
        """Copies bytes in."""
        memoryview(self._memory)[offset : offset + len(data)] = data

    def memory(self) -> Array:
        """Views all bytes, as UINT8 [byte_size], read-only: a new array each time, which all views of it keep."""
        memory = np.frombuffer(self._memory, np.uint8)
        memory.flags.writeable = False
        return memory


class Pool:
    """The slots of one client; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Slot] = []
        self._busy = 0
        self._lent: set[str] = set()
        self._returned: deque[Slot] = deque()  # without the lock: the garbage collector may come upon one while it is held
        self._dropped: list[str] = []
        self._tidied = False

    def take(self, byte_size: int) -> Slot | None:
        """Gives a slot for one call, which owes a `give_back` or a `drop`; None where too many are in use.

        Raises:
            OSError: there is no shared memory here, or not enough.
        """
        with self._lock:
            self._take_back()
            fitting = [slot for slot in self._idle if slot.byte_size >= byte_size]
            if not self._idle and self._busy >= MOST_SLOTS:
                return None
            self._busy += 1
            if fitting:  # the last one, whose memory is in the processor's cache
                self._idle.remove(fitting[-1])
                return fitting[-1]
            if self._idle:  # grown out of
                self._dropped.append(self._idle.pop().name)
            tidied, self._tidied = self._tidied, True
        try:
            if not tidied:
                posix.tidy()
            return Slot(1 << (byte_size - 1).bit_length())
        except BaseException:
            with self._lock:
                self._busy -= 1
            raise

    def give_back(self, slot: Slot) -> None:
        """Keeps a slot, of which nobody knows any more, for another call."""
        with self._lock:
            self._busy -= 1
            self._idle.append(slot)

    def lend(self, slot: Slot, memory: Array) -> bool:
        """Leaves a slot to the views of `memory`, which is its own; it comes back when the last of them has gone.

        Returns:
            Whether it does; else too many are lent, and somebody has to copy what is in it and give it back.
        """
        with self._lock:
            self._take_back()
            if len(self._lent) >= MOST_LENT:
                return False
            self._lent.add(slot.name)
        weakref.finalize(memory, self._returned.append, slot).atexit = False
        return True

    def drop(self, slot: Slot) -> None:
        """Lets a slot go that the server may still read or write."""
        with self._lock:
            self._busy -= 1
            if slot.registered:
                self._dropped.append(slot.name)

    def dropped(self) -> list[str]:
        """Gives the names of the regions that the server need not know any more; once."""
        with self._lock:
            names, self._dropped = self._dropped, []
        return names

    def empty(self) -> list[str]:
        """Lets all slots go but those of calls under way, and gives the names of the regions as `dropped` does.

        What is lent stays readable; the server need not know it for that.
        """
        with self._lock:
            self._take_back()
            self._dropped += [*self._lent, *(slot.name for slot in self._idle)]
            self._idle.clear()
        return self.dropped()

    def _take_back(self) -> None:
        while self._returned:
            slot = self._returned.popleft()
            self._lent.discard(slot.name)
            self._busy -= 1
            self._idle.append(slot)
