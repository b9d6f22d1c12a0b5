"""Memory that a client shares with its server: one slot a call, kept for the next call.

A slot's object has a name only until the server has opened it, and its region is leased (see
`normserve_proto.shared_memory`). So however a client ends, its server forgets its regions, and nothing of it stays in /dev/shm,
but for an object that still had its name when the client was killed: the next client of that user removes it.
"""

import mmap
import os
import secrets
import threading
from pathlib import Path

from normserve_proto import shared_memory as posix
from normserve_proto.tensors import Buffer

MOST_SLOTS = 32  # of one client, which is how many calls can use shared memory at a time
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

    def view(self, offset: int, byte_size: int) -> memoryview:
        """Views bytes, which the next call will overwrite."""
        return memoryview(self._memory)[offset : offset + byte_size]


class Pool:
    """The slots of one client; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Slot] = []
        self._busy = 0
        self._dropped: list[str] = []
        self._tidied = False

    def take(self, byte_size: int) -> Slot | None:
        """Gives a slot for one call, which owes a `give_back` or a `drop`; None where too many are in use.

        Raises:
            OSError: there is no shared memory here, or not enough.
        """
        with self._lock:
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
        """Lets all idle slots go, and gives the names of the regions as `dropped` does."""
        with self._lock:
            self._dropped += [slot.name for slot in self._idle]
            self._idle.clear()
        return self.dropped()
