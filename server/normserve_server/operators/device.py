"""Tensors in a device's memory, how they come there, and how they come back.

All that one call does there is ordered on one lane, so nothing in it waits for anything but the host at the end. Where the
device's memory is the host's, nothing is copied.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, final

import numpy as np
import torch
from normserve_proto.tensors import DTYPES, Array

from normserve_server.accelerators.cells import Cells
from normserve_server.accelerators.interface import Accelerator, Lane, Memory

T = TypeVar("T")

TYPES: Mapping[np.dtype[Any], torch.dtype] = {
    dtype: torch.bfloat16 if name == "BF16" else torch.from_numpy(np.empty(0, dtype)).dtype
    for name, dtype in DTYPES.items()
    if name != "BYTES"
}
_DTYPES = {kind: dtype for dtype, kind in TYPES.items()}


class Crossing:
    """A call's way to a device. What it holds there, and what is copied from and to, goes when all has been done.

    Args:
        accelerator: the device.
        lane: where everything is ordered.
    """

    def __init__(self, accelerator: Accelerator, lane: Lane) -> None:
        self._accelerator = accelerator
        self._lane = lane
        self._held: list[Any] = []

    def put(self, array: Array) -> "DeviceTensor":
        """Orders the copy of an array, of any dtype but strings, to the device. It is read until the crossing ends.

        Raises:
            DeviceMemoryError: there is no room.
        """
        array = np.require(array, requirements=("C", "A"))
        self._held.append(array)
        if not self._accelerator.apart:
            return DeviceTensor(_of_bytes(torch.from_numpy(_bytes(array)), array), self)
        memory = self._accelerator.memory(array.nbytes)
        self._held.append(memory)
        self._lane.copy_in(memory, array)
        return DeviceTensor(_of_bytes(viewed(memory), array), self)

    def run(self, compute: Callable[[], T]) -> T:
        """Calls what orders kernels, behind all that has been put."""
        results: list[T] = []
        self._lane.run(lambda: results.append(compute()))
        self._held += results
        return results[0]

    def fetch(self, given: "DeviceTensor") -> Array:
        """Orders the copy of a tensor to the host; the array, which is nobody else's, is filled when the crossing ends."""
        tensor = self.run(given.tensor.contiguous)
        if not self._accelerator.apart:
            array = tensor.view(-1).view(torch.uint8).numpy().view(given.dtype).reshape(tensor.shape)
            shared = any(isinstance(held, np.ndarray) and np.may_share_memory(array, held) for held in self._held)
            return array.copy() if shared else array
        array = self._accelerator.staging(tensor.nbytes).view(given.dtype).reshape(tensor.shape)
        self._held.append(array)
        self._lane.copy_out(array, Memory(tensor.data_ptr(), tensor.nbytes, *self._accelerator.where, tensor))
        return array

    def end(self) -> None:
        """Waits until all that was ordered has been done, and lets go of it.

        Raises:
            Exception: some of it failed.
        """
        self._lane.record().synchronize()
        self._held.clear()


@final
@dataclass(frozen=True, slots=True, eq=False)
class DeviceTensor:
    """A tensor in a device's memory.

    Attributes:
        tensor: contiguous, of any dtype that the wire has.
        crossing: with what it came there, and goes.
    """

    tensor: torch.Tensor
    crossing: Crossing

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy's name for its dtype."""
        return _DTYPES[self.tensor.dtype]


@contextmanager
def crossing(accelerator: Accelerator, lane: Lane) -> Iterator[Crossing]:
    """A crossing that ends here, however it ends."""
    made = Crossing(accelerator, lane)
    try:
        yield made
    finally:
        made.end()


def viewed(memory: Memory) -> torch.Tensor:
    """A device's memory as uint8 [nbytes], where it is; the tensor keeps it."""
    cells = Cells(memory)
    if memory.kind == "cpu":
        return torch.from_numpy(np.asarray(cells))
    return torch.as_tensor(cells, device=f"{memory.kind}:{memory.index}")


def _bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


def _of_bytes(cells: torch.Tensor, array: Array) -> torch.Tensor:
    """The bytes as a tensor of an array's dtype and shape."""
    return cells.view(TYPES[array.dtype]).view(array.shape)
