"""One servable with one thread and the buffers that its batches are put together in."""

import asyncio
import bisect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from normserve_proto.tensors import Array

from normserve_server.calls import now
from normserve_server.compute import Times
from normserve_server.errors import InternalError, UnavailableError
from normserve_server.servable import Servable
from normserve_server.statistics import Laps
from normserve_server.validation import Work
from normserve_server.workers import Worker

T = TypeVar("T")
Outcome: TypeAlias = Sequence[Array] | BaseException

# A run on the loop spares two thread switches, and holds up every other call for as long. This is about what gRPC and the
# handler hold the loop for anyway. Measured on two cores, a run of 40 us: 10 % more requests/s at 1 and at 16 callers.
INLINE_SECONDS = 2e-4
# Some models' time depends on the data and not on the shape. After two runs this long none is risked on the loop for so long
# that the loop is held for about this share of the time, whatever callers send.
BARRING_SECONDS = 20 * INLINE_SECONDS
BARRED_SHARE = 0.01
SMOOTHING = 0.2  # weight of the newest run in the moving average of run times
MAX_KNOWN_SHAPES = 1024  # shapes come from callers, so what is remembered of them is bounded


class Run(NamedTuple):
    """One execution of the model.

    Attributes:
        samples: how many ran, without padding.
        laps: how long its parts took; None where it failed.
        outcomes: each member's outputs, or what it failed with.
        padding: how many samples ran besides, to fill a bucket.
    """

    samples: int
    laps: Laps | None
    outcomes: Sequence[Outcome]
    padding: int = 0


class Instance:
    """Runs batches of one servable, one at a time, on its thread or, where that is cheaper, on the caller's.

    Args:
        servable: the model.
        worker: its thread.
        run_seconds: what one sample takes, as far as that is known.
        buckets: sizes, ascending, that batches are padded to; the last is the largest batch. Empty for no padding.
        sample: inputs of one sample, for `probe`; None where none is known.
        device: where it computes, such as "cuda:0".
        staging: gives memory, uint8 [bytes], that inputs are copied to and its device reads them from; None where the
            servable reads them wherever they are.

    Attributes:
        run_seconds: likewise.
        device: likewise.
        down: whether its device broke and could not be had since; until it has worked again.
    """

    def __init__(
        self,
        servable: Servable,
        worker: Worker,
        run_seconds: float = math.inf,
        *,
        buckets: Sequence[int] = (),
        sample: Mapping[str, Array] | None = None,
        device: str = "cpu",
        staging: Callable[[int], Array] | None = None,
    ) -> None:
        self.run_seconds = run_seconds
        self.device = device
        self.down = False
        self._servable = servable
        self._worker = worker
        self._buckets = buckets
        self._sample = sample
        self._staging = staging
        self._buffers: dict[str, Array] = {}
        self._last: dict[str, Array] = {}  # views of the buffers, as they were wanted last
        self._seconds: dict[tuple[object, int], float] = {}
        self._barred_until = 0.0
        self._watched_until = 0.0
        self._busy_since: float | None = None
        self._worked = False

    def quick(self, work: Work) -> bool:
        """Whether this work, alone and as it is, is known to take so little time that the loop may be held for it."""
        if self._staging or (self._buckets and self._padded(work.size) != work.size):
            return False  # a device's memory is bound to the instance's thread
        expected = self.run_seconds if work.size == 1 else math.inf
        quick = self._seconds.get((work.shape_key, work.size), expected) < INLINE_SECONDS
        return quick and (not self._barred_until or now() > self._barred_until)

    def start(self, batch: Sequence[Work], done: Callable[[list[Run]], None]) -> None:
        """Runs a batch on the instance's thread, then calls `done` on the loop."""

        def settle(runs: list[Run] | None, error: BaseException | None) -> None:
            done([_failed(batch, error or InternalError("no outcome"))] if runs is None else runs)

        self._worker.run(lambda: self._busy(lambda: self.run(batch)), settle)

    def run(self, batch: Sequence[Work]) -> list[Run]:
        """Runs a batch here and now.

        Args:
            batch: at least one; of one shape where there are several.

        Returns:
            The run. Where a batch fails, its members run alone, so that a bad one does not spoil the others: then one run
            a member, in order.
        """
        try:
            return [self._run_together(batch)]
        except Exception as error:  # noqa: BLE001 - a servable may fail in any way; its callers are told
            if len(batch) == 1:
                return [_failed(batch, error)]
            return [run for work in batch for run in self.run([work])]

    def run_alone(self, work: Work) -> tuple[Sequence[Array], Laps]:
        """Runs one request here and now, as it is.

        Raises:
            Exception: whatever the servable raises.
        """
        began = now()
        return self._timed(began, self._alone(work), work, work.size)

    async def probe(self, timeout_seconds: float) -> None:
        """Finds out whether the instance works: by what it has answered since the last time, else by running one sample.

        Args:
            timeout_seconds: longest time for the sample, and for a run that is under way.

        Raises:
            ServiceError: the servable failed.
            TimeoutError: it did not answer in time.
        """
        worked, self._worked = self._worked, False
        sample = self._sample
        if worked or sample is None:
            return
        if self._busy_since is None:
            async with asyncio.timeout(timeout_seconds):
                await self._worker.call(lambda: self._busy(lambda: self._run(sample)))
        elif now() - self._busy_since > timeout_seconds:
            raise TimeoutError

    async def prepare(self) -> None:
        """Runs one sample on the thread where that binds a device's memory to it, which may take its time.

        Raises:
            ServiceError: the servable failed.
        """
        sample = self._sample
        if self._staging and sample is not None:
            await self._worker.call(lambda: self._servable.run(sample))

    async def close(self) -> None:
        """Ends the thread."""
        await self._worker.close()

    def _run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Runs the servable, and notes whether it is there."""
        try:
            outputs = self._servable.run(inputs)
        except UnavailableError:
            self.down = True
            raise
        self.down = False
        return outputs

    def _busy(self, run: Callable[[], T]) -> T:
        """Runs, and lets it be seen since when."""
        self._busy_since = now()
        try:
            return run()
        finally:
            self._busy_since = None

    def _run_together(self, batch: Sequence[Work]) -> Run:
        began = now()
        size = batch[0].size if len(batch) == 1 else sum(work.size for work in batch)
        padded = self._padded(size) if self._buckets else size
        whole = len(batch) == 1 and padded == size
        inputs = self._alone(batch[0]) if whole else self._joined(batch, padded)
        outputs, laps = self._timed(began, inputs, batch[0], size)
        if whole:
            return Run(size, laps, [outputs])
        split = now()
        outcomes = _split(outputs, [work.size for work in batch], padded)
        return Run(size, laps._replace(output=laps.output + now() - split), outcomes, padded - size)

    def _timed(self, began: float, inputs: Mapping[str, Array], work: Work, size: int) -> tuple[Sequence[Array], Laps]:
        """Runs the servable on `size` samples of the shape of `work`, whose putting together began at `began`."""
        started = now()
        try:
            outputs = self._run(inputs)
        finally:
            ended = now()
            self._remember((work.shape_key, size), ended - started)
        self._worked = True
        copy_in, _, copy_out = self._device_times() or (0.0, 0.0, 0.0)
        return outputs, Laps(started - began + copy_in, max(ended - started - copy_in - copy_out, 0.0), copy_out)

    def _device_times(self) -> Times | None:
        """How long the parts of the last run took on a device of its own memory; None elsewhere, or where it does not tell."""
        return getattr(self._servable, "times", None) if self._staging else None

    def _padded(self, size: int) -> int:
        """The size that a batch runs with: the next bucket's; its own where there is none."""
        position = bisect.bisect_left(self._buckets, size)
        return self._buckets[position] if position < len(self._buckets) else size

    def _alone(self, work: Work) -> Mapping[str, Array]:
        """The inputs where they are, unless that is shared memory, or not where a device or a kernel may read them.

        In a message they may begin where no element may for a kernel.
        """
        if work.shared or self._staging:
            return {name: self._copied(name, array) for name, array in work.inputs.items()}
        inputs = work.inputs
        for name, array in inputs.items():
            if not array.flags.aligned:
                inputs = {**inputs, name: self._copied(name, array)}
        return inputs

    def _copied(self, name: str, array: Array) -> Array:
        if array.dtype == np.object_:
            return array
        buffer = self._buffer(name, array.shape, array.dtype)
        np.copyto(buffer, array)
        return buffer

    def _joined(self, batch: Sequence[Work], padded: int) -> Mapping[str, Array]:
        return {name: self._concatenated(name, [work.inputs[name] for work in batch], padded) for name in batch[0].inputs}

    def _concatenated(self, name: str, arrays: Sequence[Array], padded: int) -> Array:
        """One array of `padded` rows; what pads repeats the first row, which is an input that the model takes."""
        size = sum(len(array) for array in arrays)
        rows = [*arrays, *[arrays[0][:1]] * (padded - size)]
        if arrays[0].dtype == np.object_:
            return np.concatenate(rows)
        return np.concatenate(rows, out=self._buffer(name, (padded, *arrays[0].shape[1:]), arrays[0].dtype))

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory of the instance, kept between batches: fresh memory costs a page fault for every 4 KiB."""
        last = self._last.get(name)
        if last is not None and last.shape == shape and last.dtype == dtype:
            return last
        size = math.prod(shape) * dtype.itemsize
        memory = self._buffers.get(name)
        if memory is None or memory.size < size:
            self._buffers.pop(name, None)
            memory = self._buffers[name] = self._staging(size) if self._staging else np.empty(size, np.uint8)
        last = self._last[name] = memory[:size].view(dtype).reshape(shape)
        return last

    def _bar(self, seconds: float) -> None:
        """Keeps runs off the loop after a second long one; the first may be short, and the system had other things to do."""
        moment = now()
        if moment < self._watched_until:
            self._barred_until = moment + seconds / BARRED_SHARE
        self._watched_until = moment + seconds / BARRED_SHARE

    def _remember(self, key: tuple[object, int], seconds: float) -> None:
        if len(self._seconds) >= MAX_KNOWN_SHAPES:
            self._seconds.clear()
        if seconds > BARRING_SECONDS:
            self._bar(seconds)
        before = self._seconds.get(key, seconds)
        # One run that the system interrupted for milliseconds says nothing about the next; several in a row do.
        self._seconds[key] = before + SMOOTHING * (min(seconds, 2 * before) - before)


def _failed(batch: Sequence[Work], error: BaseException) -> Run:
    return Run(sum(work.size for work in batch), None, [error] * len(batch))


def _split(outputs: Sequence[Array], sizes: Sequence[int], padded: int) -> list[list[Array]]:
    for position, output in enumerate(outputs):
        if not output.shape or output.shape[0] != padded:
            raise InternalError(f"output {position} has shape {list(output.shape)} for a batch of {padded} samples")
    stops = itertools.accumulate(sizes)
    return [[output[stop - size : stop] for output in outputs] for size, stop in zip(sizes, stops, strict=True)]
