"""Inputs to prove a model on: drawn from a seed, or the user's own samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from normserve_models.graph import runtime_reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from onnxruntime import InferenceSession, NodeArg

    from normserve_models.kernels import Array

Batch = dict[str, "Array"]
Agrees = Callable[[Batch, "Sequence[Array]"], bool]

DTYPES: dict[str, Any] = {
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": ml_dtypes.bfloat16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32,
    "tensor(int32)": np.int32,
    "tensor(uint64)": np.uint64,
    "tensor(int64)": np.int64,
}
# Networks differ in the sizes that they accept where theirs are free: each is tried until one runs.
FREE_SIZES = (16, 32, 64, 128, 224, 1, 8)
MANY_ROWS = 4
LARGE_ROW = 50_000  # elements; one row of a photograph says as much as four of a digit
CHUNK = 8  # rows of the user's samples that go through at once


class SamplesError(ValueError):
    """There is nothing to prove the model on; the message names the input, what was wanted and what came."""


def drawn(
    session: InferenceSession, rounds: range, *, rows: int | None = None, agrees: Agrees | None = None
) -> Iterator[Batch]:
    """Yield one batch a round: normal values in even rounds, uniform ones from 0 to 1, as images are, in odd ones.

    Args:
        session: The model that will be fed.
        rounds: The seeds.
        rows: How many samples a batch holds where that is free; None for what a proof wants.
        agrees: Told a batch and the outputs for it, says whether a free size will do; the first that runs is taken where none
            does. A window that is larger than what it slides over gives one thing here and nothing there.

    Raises:
        SamplesError: An input has a type that cannot be drawn, or no free size was found that the model accepts.
    """
    size = _accepted_size(session, agrees)
    for seed in rounds:
        yield _batch(session.get_inputs(), size, seed, rows)


def _accepted_size(session: InferenceSession, agrees: Agrees | None) -> int:
    failure, runs = "", None
    free = any(not isinstance(dim, int) for argument in session.get_inputs() for dim in argument.shape[1:])
    for size in FREE_SIZES:
        batch = _batch(session.get_inputs(), size, seed=0)
        try:
            outputs = session.run(None, batch)
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
            failure = failure or runtime_reason(error)
        else:
            if agrees is None or not free or agrees(batch, outputs):
                return size
            runs = runs or size
    if runs is not None:
        return runs
    raise SamplesError(f"the model accepts no inputs that were drawn, give samples: {failure}")


def _batch(inputs: Sequence[NodeArg], size: int, seed: int, rows: int | None = None) -> Batch:
    generator = np.random.default_rng(seed)
    return {argument.name: _array(argument, size, rows, generator, uniform=seed % 2 == 1) for argument in inputs}


def _array(argument: NodeArg, size: int, rows: int | None, generator: np.random.Generator, *, uniform: bool) -> Array:
    dtype = DTYPES.get(argument.type)
    if dtype is None:
        raise SamplesError(f"input {argument.name!r} is of type {argument.type}, which cannot be drawn: give samples")
    inner = [dim if isinstance(dim, int) else size for dim in argument.shape[1:]]
    rows = rows or (MANY_ROWS if np.prod(inner) < LARGE_ROW else 1)
    shape = [dim if isinstance(dim, int) else rows for dim in argument.shape[:1]] + inner
    if np.dtype(dtype).kind in "fV":  # V: bfloat16
        return np.asarray(generator.random(shape) if uniform else generator.standard_normal(shape)).astype(dtype)
    if np.dtype(dtype).itemsize == 1 and dtype is not np.bool_:
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)  # an index into anything that has two rows


def given(session: InferenceSession, samples: Mapping[str, Array]) -> Iterator[Batch]:
    """Yield the user's samples in batches that the model accepts.

    Args:
        session: The model that will be fed.
        samples: An array for each input, by its name.

    Raises:
        SamplesError: Names, types or shapes do not fit the inputs.
    """
    inputs = session.get_inputs()
    wanted = {argument.name for argument in inputs}
    if wanted != set(samples):
        raise SamplesError(f"the samples hold {sorted(samples)}, wanted {sorted(wanted)}")
    for argument in inputs:
        _require_fit(argument, samples[argument.name])
    if any(not argument.shape or isinstance(argument.shape[0], int) for argument in inputs):
        yield dict(samples)
        return
    rows = {len(array) for array in samples.values()}
    if len(rows) != 1 or 0 in rows:
        raise SamplesError(f"the samples have {sorted(rows)} rows, wanted the same number, at least 1, for all inputs")
    for start in range(0, rows.pop(), CHUNK):
        yield {name: array[start : start + CHUNK] for name, array in samples.items()}


def _require_fit(argument: NodeArg, array: Array) -> None:
    dtype = np.dtype(DTYPES.get(argument.type, np.object_))
    if array.dtype != dtype:
        raise SamplesError(f"samples of {argument.name!r} are {array.dtype}, wanted {dtype}")
    fits = len(argument.shape) == array.ndim and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(argument.shape, array.shape, strict=True)
    )
    if not fits:
        raise SamplesError(f"samples of {argument.name!r} have the shape {list(array.shape)}, wanted {argument.shape}")


def read_samples(path: Path) -> Batch:
    """Read samples from an .npz file, one array an input.

    Raises:
        SamplesError: The file cannot be read, or is no .npz.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SamplesError(f"{path}: not a readable .npz file") from error
