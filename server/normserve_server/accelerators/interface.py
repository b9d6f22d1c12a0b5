"""What the service wants of a device. All there is to write, or to fake, for another one.

Work is ordered on lanes. A lane does what it is given in order, at some time later, and lanes do not wait for each other unless
they are told to: `event = one.record()`, `other.wait(event)`. The host waits by `event.synchronize()`. Until then nothing may
touch the memory of a copy.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol

from normserve_proto.tensors import Array

from normserve_server.accelerators.tuning import Tuning
from normserve_server.devices import Device
from normserve_server.errors import DeviceBrokenError, DeviceMemoryError

__all__ = ["Accelerator", "DeviceBrokenError", "DeviceMemoryError", "Event", "Lane", "Memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Contiguous memory that a session on the device can read and write.

    Attributes:
        pointer: its address.
        nbytes: its size.
        kind: what onnxruntime calls where it is: "cpu" or "cuda".
        index: the device's number among those.
        owner: what it is freed with.
    """

    pointer: int
    nbytes: int
    kind: str
    index: int
    owner: Any = field(default=None, compare=False, repr=False)


class Event(Protocol):
    """A place in a lane's order."""

    def synchronize(self) -> None:
        """Waits, without the interpreter lock, until the lane has come here.

        Raises:
            Exception: something that was ordered before has failed.
        """

    def seconds_since(self, earlier: Any) -> float:
        """How much later the device came here than to another of its events; both must have been synchronized."""


class Lane(Protocol):
    """An order of work; CUDA calls it a stream. Any thread may use it, one at a time."""

    def copy_in(self, memory: Memory, array: Array) -> None:
        """Orders a copy of a C-contiguous array to the beginning of `memory`; at once only out of `staging`."""

    def copy_out(self, array: Array, memory: Memory) -> None:
        """Orders a copy of the beginning of `memory` into a C-contiguous array; at once only into `staging`."""

    def run(self, enqueue: Callable[[], None], graph: int | None = None) -> None:
        """Calls what orders a session's run, or torch's kernels, on this lane.

        Args:
            enqueue: is called at once.
            graph: the number of the graph that a session captures or replays; None for none.
        """

    def record(self) -> Event:
        """Notes the place behind what was ordered so far."""

    def wait(self, event: Any) -> None:
        """Holds up what is ordered from now on until another lane of the device has come to `event`; the host goes on."""


class Accelerator(Protocol):
    """A device."""

    @property
    def device(self) -> Device:
        """Which one."""

    @property
    def apart(self) -> bool:
        """Whether its memory is not the host's, so that tensors are copied there and back."""

    @property
    def where(self) -> tuple[str, int]:
        """Where its memory is, as `Memory` has it: kind and index."""

    @property
    def capturing(self) -> Lock:
        """Held by who captures a graph there: two at a time would spoil each other's."""

    def staging(self, nbytes: int) -> Array:
        """Gives host memory that it copies from and to without the host: uint8 [nbytes]. It goes with its last view.

        Raises:
            DeviceMemoryError: there is no room.
        """

    def memory(self, nbytes: int) -> Memory:
        """Gives memory of the device, which goes with the last reference to it.

        Raises:
            DeviceMemoryError: there is no room.
        """

    def lane(self) -> Lane:
        """Makes a lane."""

    def providers(self, tuning: Tuning, lane: Any) -> list[Any]:
        """What `onnxruntime.InferenceSession` takes for a session that computes on `lane`, one of the device's.

        Raises:
            LoadError: `tuning` wants what is not here.
        """

    def free_and_total_bytes(self) -> tuple[int, int]:
        """How much of the device's memory nobody has taken, and how much it has."""

    def broken(self) -> str | None:
        """Why it will do nothing any more in this process; None where it works. Asked after a failure; may wait for it."""

    def give_back(self) -> None:
        """Returns memory that was freed and kept to the system."""
