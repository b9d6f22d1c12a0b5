"""Tensors in a device's memory, how they come there, and how they come back.

All that one call does there is ordered on one lane, so nothing in it waits for anything but the host at the end.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, final

import numpy as np
import torch
from normserve_proto.tensors import DTYPES, Array

from normserve_server.accelerators.interface import Accelerator, Lane, Memory

T = TypeVar("T")

TYPES = {
    DTYPES["FP16"]: torch.float16,
    DTYPES["BF16"]: torch.bfloat16,
    DTYPES["FP32"]: torch.float32,
    DTYPES["FP64"]: torch.float64,
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
        """Orders the copy of an array of floats to the device.

        Raises:
            DeviceMemoryError: there is no room.
        """
        staged = self._accelerator.staging(array.nbytes).view(array.dtype).reshape(array.shape)
        np.copyto(staged, array)
        memory = self._accelerator.memory(array.nbytes)
        self._held += [staged, memory]
        self._lane.copy_in(memory, staged)
        return DeviceTensor(viewed(memory).view(TYPES[array.dtype]).view(array.shape), self)

    def run(self, compute: Callable[[], T]) -> T:
        """Calls what orders kernels, behind all that has been put."""
        results: list[T] = []
        self._lane.run(lambda: results.append(compute()))
        self._held += results
        return results[0]

    def fetch(self, given: "DeviceTensor") -> Array:
        """Orders the copy of a tensor to the host; the array is filled when the crossing ends."""
        tensor, device = self.run(given.tensor.contiguous), self._accelerator.device
        array: Array = self._accelerator.staging(tensor.nbytes).view(given.dtype).reshape(tensor.shape)
        self._held.append(array)
        self._lane.copy_out(array, Memory(tensor.data_ptr(), tensor.nbytes, tensor.device.type, device.index, tensor))
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
        tensor: float16, bfloat16, float32 or float64.
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


def takes(dtype: np.dtype[Any]) -> bool:
    """Whether tensors of this dtype can be on a device."""
    return dtype in TYPES


def viewed(memory: Memory) -> torch.Tensor:
    """A device's memory as uint8 [nbytes], where it is; the tensor keeps it."""
    cells = _Cells(memory)
    if memory.kind == "cpu":
        return torch.from_numpy(np.asarray(cells))
    return torch.as_tensor(cells, device=f"{memory.kind}:{memory.index}")


class _Cells:
    """Memory by the interface that numpy takes for the host's, and torch for CUDA's."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        cells = {"shape": (memory.nbytes,), "typestr": "|u1", "data": (memory.pointer, False), "version": 3}
        setattr(self, "__array_interface__" if memory.kind == "cpu" else "__cuda_array_interface__", cells)
