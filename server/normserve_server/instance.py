"""One servable with one thread and the buffers that its batches are put together in."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from normserve_proto.tensors import Array

from normserve_server.calls import now
from normserve_server.errors import InternalError
from normserve_server.servable import Servable
from normserve_server.validation import Work
from normserve_server.workers import Worker

Outcome: TypeAlias = Sequence[Array] | BaseException

# A run on the loop spares two thread switches, and holds up every other call for as long. This is about what gRPC and the
# handler hold the loop for anyway. Measured on two cores, a run of 40 us: 10 % more requests/s at 1 and at 16 callers.
INLINE_SECONDS = 2e-4
SMOOTHING = 0.2  # weight of the newest run in the moving average of run times
MAX_KNOWN_SHAPES = 1024  # shapes come from callers, so what is remembered of them is bounded


class Instance:
    """Runs batches of one servable, one at a time, on its thread or, where that is cheaper, on the caller's.

    Args:
        servable: the model.
        worker: its thread.
        run_seconds: what one sample takes, as far as that is known.
    """

    def __init__(self, servable: Servable, worker: Worker, run_seconds: float = math.inf) -> None:
        self._servable = servable
        self._worker = worker
        self._buffers: dict[str, Array] = {}
        self._run_seconds = run_seconds
        self._seconds: dict[tuple[object, int], float] = {}

    def quick(self, work: Work) -> bool:
        """Whether this work, alone, is known to take so little time that the loop may be held for it."""
        expected = self._run_seconds if work.size == 1 else math.inf
        return self._seconds.get((work.shape_key, work.size), expected) < INLINE_SECONDS

    def start(self, batch: Sequence[Work], done: Callable[[list[Outcome]], None]) -> None:
        """Runs a batch on the instance's thread, then calls `done` on the loop."""

        def settle(outcomes: list[Outcome] | None, error: BaseException | None) -> None:
            done([error or InternalError("no outcome")] * len(batch) if outcomes is None else outcomes)

        self._worker.run(lambda: self.run(batch), settle)

    def run(self, batch: Sequence[Work]) -> list[Outcome]:
        """Runs a batch here and now.

        Args:
            batch: at least one; of one shape where there are several.

        Returns:
            For each member its outputs, or the exception that it failed with. Where a batch fails, its members run alone, so
            that a bad one does not spoil the others.
        """
        try:
            return list(self._run_together(batch))
        except Exception as error:  # noqa: BLE001 - a servable may fail in any way; its callers are told
            if len(batch) == 1:
                return [error]
            return [self.run([work])[0] for work in batch]

    async def close(self) -> None:
        """Ends the thread."""
        await self._worker.close()

    def _run_together(self, batch: Sequence[Work]) -> Sequence[Sequence[Array]]:
        inputs = batch[0].inputs if len(batch) == 1 else self._joined(batch)
        inputs = {name: self._aligned(name, array) for name, array in inputs.items()}
        size = sum(work.size for work in batch)
        started = now()
        outputs = self._servable.run(inputs)
        self._remember((batch[0].shape_key, size), now() - started)
        return [outputs] if len(batch) == 1 else _split(outputs, [work.size for work in batch])

    def _joined(self, batch: Sequence[Work]) -> Mapping[str, Array]:
        return {name: self._concatenated(name, [work.inputs[name] for work in batch]) for name in batch[0].inputs}

    def _concatenated(self, name: str, arrays: Sequence[Array]) -> Array:
        if arrays[0].dtype == np.object_:
            return np.concatenate(arrays)
        shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
        return np.concatenate(arrays, out=self._buffer(name, shape, arrays[0].dtype))

    def _aligned(self, name: str, array: Array) -> Array:
        """A view of a message begins anywhere in it; kernels want their elements at multiples of their size."""
        if array.flags.aligned:
            return array
        aligned = self._buffer(name, array.shape, array.dtype)
        np.copyto(aligned, array)
        return aligned

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory of the instance, kept between batches: fresh memory costs a page fault for every 4 KiB."""
        size = int(np.prod(shape)) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, np.uint8)
        return buffer[:size].view(dtype).reshape(shape)

    def _remember(self, key: tuple[object, int], seconds: float) -> None:
        if len(self._seconds) >= MAX_KNOWN_SHAPES:
            self._seconds.clear()
        before = self._seconds.get(key, seconds)
        self._seconds[key] = before + SMOOTHING * (seconds - before)


def _split(outputs: Sequence[Array], sizes: Sequence[int]) -> list[list[Array]]:
    total = sum(sizes)
    for position, output in enumerate(outputs):
        if not output.shape or output.shape[0] != total:
            raise InternalError(f"output {position} has shape {list(output.shape)} for a batch of {total} samples")
    stops = np.cumsum(sizes)
    return [[output[stop - size : stop] for output in outputs] for size, stop in zip(sizes, stops.tolist(), strict=True)]
