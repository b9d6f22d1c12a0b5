"""Handwritten digits: scikit-learn's copy of the UCI set, 1797 images of 8x8 pixels, split once and for all.

No torch here: whoever only wants images to show does not pay for it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SPLIT_SEED = 0
HELD_OUT = 360  # a fifth


def training() -> tuple[Images, Labels]:
    """Return the images to learn from.

    Returns:
        images: float32 [1437, 1, 8, 8], 0 to 1.
        labels: int64 [1437], 0 to 9.
    """
    images, labels, order = _load()
    chosen = order[HELD_OUT:]
    return images[chosen], labels[chosen]


def held_out() -> tuple[Images, Labels]:
    """Return the images that no training has seen.

    Returns:
        images: float32 [360, 1, 8, 8], 0 to 1.
        labels: int64 [360], 0 to 9.
    """
    images, labels, order = _load()
    chosen = order[:HELD_OUT]
    return images[chosen], labels[chosen]


def _load() -> tuple[Images, Labels, npt.NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - a second of import, paid by those who load

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 1, 8, 8) / 16).astype(np.float32)  # pixels are counts from 0 to 16
    # RandomState, because numpy promises never to change its stream, and the split must outlive numpy versions.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels)).astype(np.int64)
    return images, labels.astype(np.int64), order
