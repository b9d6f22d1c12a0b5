"""The `classification` parameter of an output: its largest elements, as text, instead of all of them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from normserve_proto.tensors import Array

from normserve_server.errors import InvalidRequestError

MOST_RESULTS = 100_000  # of an output; each becomes a text of its own, while all other calls wait


def check_count(name: str, shape: Sequence[int], classes: int, *, batched: bool) -> None:
    """Refuses what would be too many texts.

    Args:
        name: the output's.
        shape: its shape, without unknown extents.
        classes: how many are wanted of each sample.
        batched: whether the first axis is the batch's.

    Raises:
        InvalidRequestError: there would be more than `MOST_RESULTS`.
    """
    rows, count = (shape[0], math.prod(shape[1:])) if batched else (1, math.prod(shape))
    results = rows * min(classes, count)
    if results > MOST_RESULTS:
        raise InvalidRequestError(
            f"output '{name}': classification gives at most {MOST_RESULTS} results, "
            f"got {classes} classes of shape {list(shape)}, which are {results}"
        )


def top(array: Array, classes: int, *, batched: bool, labels: Sequence[str] = ()) -> Array:
    """Finds the classes with the largest values.

    Args:
        array: an output of numbers.
        classes: how many are wanted, > 0; all where there are fewer.
        batched: whether the first axis is the batch's: then each sample has its own classes.
        labels: of the classes in order; a class beyond them has none.

    Returns:
        BYTES of shape [batch, k], without a batch [k]: "value:class" or "value:class:label", the largest value first. Of equal
        values the lower class comes first; NaN counts as negative infinity.
    """
    batch, own = (array.shape[:1], array.shape[1:]) if batched else ((), array.shape)
    count = math.prod(own)
    rows = array.reshape(math.prod(batch), count)
    texts = [_text(row[index], index, labels) for row in rows for index in _largest(row, classes).tolist()]
    answer = np.empty(len(texts), np.object_)
    answer[:] = texts
    return answer.reshape(*batch, min(classes, count))


def _largest(row: Array, classes: int) -> Array:
    """The indices of the largest elements, in order."""
    keys = row if row.dtype.kind in "iu" else _comparable(row)
    candidates = np.arange(len(keys))
    if classes < len(keys):  # sorting a few of a million is what is not slow
        least = np.partition(keys, -classes)[-classes]
        candidates = np.flatnonzero(keys >= least)
    # Backwards before and after, so that a stable sort leaves the lower of equal ones in front.
    order = np.argsort(keys[candidates][::-1], kind="stable")[::-1]
    best: Array = candidates[::-1][order][:classes]
    return best


def _comparable(row: Array) -> Array:
    wide = row if row.dtype == np.float64 else row.astype(np.float32)
    return np.where(np.isnan(wide), -np.inf, wide)


def _text(value: Any, index: int, labels: Sequence[str]) -> bytes:
    text = f"{value}:{index}" if value.dtype.kind in "iu" else f"{float(value):f}:{index}"
    return (f"{text}:{labels[index]}" if index < len(labels) else text).encode()
