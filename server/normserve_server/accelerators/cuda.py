"""An NVIDIA GPU, by way of torch: pinned memory, streams, events and figures of memory. Imported only where there is one.

Nothing in this file has run on a GPU yet: it is as short as the interface allows, and all around it runs on a fake in tests.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import onnxruntime as ort
import torch
from normserve_proto.tensors import Array

from normserve_server.accelerators.cells import Cells
from normserve_server.accelerators.interface import DeviceMemoryError, Memory
from normserve_server.accelerators.tuning import Tuning
from normserve_server.devices import CPU, CUDA, TENSORRT, Device
from normserve_server.errors import LoadError


class CudaEvent:
    """An `Event`.

    Args:
        stream: where it is recorded, now.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record(stream)

    def synchronize(self) -> None:
        """Waits; raises what CUDA says of anything that failed before."""
        self.event.synchronize()

    def seconds_since(self, earlier: "CudaEvent") -> float:
        """As the GPU measured it, to about a microsecond."""
        return float(earlier.event.elapsed_time(self.event)) / 1000


class CudaLane:
    """A `Lane`: a stream."""

    def __init__(self, index: int) -> None:
        self.stream = torch.cuda.Stream(index)

    def copy_in(self, memory: Memory, array: Array) -> None:
        """Orders the copy."""
        if array.nbytes:  # a tensor of nothing may be nowhere
            with torch.cuda.stream(self.stream):
                _tensor(memory)[: array.nbytes].copy_(_host(array), non_blocking=True)

    def copy_out(self, array: Array, memory: Memory) -> None:
        """Orders the copy."""
        if array.nbytes:
            with torch.cuda.stream(self.stream):
                _host(array).copy_(_tensor(memory)[: array.nbytes], non_blocking=True)

    def run(self, enqueue: Callable[[], None], graph: int | None = None) -> None:
        """The session's provider was told of this stream; torch is here."""
        with torch.cuda.stream(self.stream):
            enqueue()

    def record(self) -> CudaEvent:
        """Records an event."""
        return CudaEvent(self.stream)

    def wait(self, event: CudaEvent) -> None:
        """Has the stream wait."""
        self.stream.wait_event(event.event)


class Cuda:
    """An `Accelerator`.

    Args:
        device: which GPU.

    Raises:
        LoadError: torch cannot use it.
    """

    apart = True

    def __init__(self, device: Device) -> None:
        if not torch.cuda.is_available():
            raise LoadError(f"{device}: this torch ({torch.__version__}) cannot use a GPU, which copies to it are made with")
        self.device = device
        self.capturing = Lock()
        self.where = ("cuda", device.index)

    def staging(self, nbytes: int) -> Array:
        """Pinned memory, which torch keeps for the next one that wants as much."""
        with self._room(nbytes):
            array: Array = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
            return array

    def memory(self, nbytes: int) -> Memory:
        """Memory of torch's allocator; never at the address 0, which onnxruntime does not take."""
        with self._room(nbytes):
            tensor = torch.empty(max(nbytes, 1), dtype=torch.uint8, device=f"cuda:{self.device.index}")
            return Memory(tensor.data_ptr(), nbytes, *self.where, tensor)

    def lane(self) -> CudaLane:
        """A stream of torch's pool, which has 32: the lanes beyond share one with another, and wait for it."""
        return CudaLane(self.device.index)

    def providers(self, tuning: Tuning, lane: CudaLane) -> list[Any]:
        """TensorRT where it is wanted, CUDA, and the CPU for nodes that neither has."""
        stream = {"device_id": self.device.index, "user_compute_stream": str(lane.stream.cuda_stream)}
        cuda = (CUDA, {**stream, **cuda_options(tuning)})
        if not tuning.tensorrt:
            return [cuda, CPU]
        if TENSORRT not in ort.get_available_providers():
            raise LoadError(f"tensorrt is asked for: this onnxruntime has no {TENSORRT}")
        return [(TENSORRT, stream), cuda, CPU]

    def free_and_total_bytes(self) -> tuple[int, int]:
        """As the driver tells; what torch keeps is not free."""
        free, total = torch.cuda.mem_get_info(self.device.index)
        return int(free), int(total)

    def broken(self) -> str | None:
        """What CUDA says to whoever waits for everything: after a sticky error, the same for ever."""
        try:
            torch.cuda.synchronize(self.device.index)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            return None if "captur" in reason else reason  # a graph's, which may not be waited for: that passes
        return None

    def give_back(self) -> None:
        """Empties torch's caches, of pinned memory too."""
        torch.cuda.empty_cache()
        torch.accelerator.empty_host_cache()

    @contextmanager
    def _room(self, nbytes: int) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if "out of memory" not in str(error):  # of pinned memory there is no class of its own
                raise
            free, total = self.free_and_total_bytes()
            wanted = f"{self.device}: wanted {nbytes} bytes of memory, {free} of {total} are free"
            raise DeviceMemoryError(wanted) from error


def cuda_options(tuning: Tuning) -> dict[str, str]:
    """Gives onnxruntime's names and words for a tuning."""
    options = {
        "cudnn_conv_algo_search": tuning.conv_algo_search,
        "use_tf32": str(int(tuning.tf32)),
        "prefer_nhwc": str(int(tuning.prefer_nhwc)),
        "enable_cuda_graph": str(int(tuning.cuda_graphs)),
        "arena_extend_strategy": "kSameAsRequested",  # doubling would take gigabytes that other models want
    }
    return {**options, "gpu_mem_limit": str(tuning.memory_limit_bytes)} if tuning.memory_limit_bytes else options


def _tensor(memory: Memory) -> torch.Tensor:
    return torch.as_tensor(Cells(memory), device=f"cuda:{memory.index}")


def _host(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.reshape(-1).view("uint8"))
