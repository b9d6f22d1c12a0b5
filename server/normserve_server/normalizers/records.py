"""A normalizer as it is kept."""

from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np

from normserve_server.normalizers.layer import Layer, Layout, State


@dataclass(frozen=True, slots=True)
class Record:
    """A normalizer at one moment.

    Attributes:
        id: the last part of its name.
        layer: what it computes.
        training: whether a tensor is taken for training where a call does not say.
        state: parameters and statistics; nothing writes into its arrays.
        sequence: updates so far.
        uid: of all that were ever made, this one's alone.
        revision: changes so far.
        created: microseconds since 1970; and `updated`, of the last change.
    """

    id: str
    layer: Layer
    training: bool
    state: State
    uid: str
    created: int
    updated: int
    sequence: int = 0
    revision: int = 0

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return f"{self.uid}-{self.revision}"

    def observed(self, state: State, moment: int) -> Self:
        """After an update that gave this state."""
        return replace(self, state=state, sequence=self.sequence + 1, revision=self.revision + 1, updated=moment)

    def changed(self, layer: Layer, state: State, moment: int, *, training: bool) -> Self:
        """After another change."""
        return replace(self, layer=layer, state=state, training=training, revision=self.revision + 1, updated=moment)


def packed(state: State, layout: Layout) -> bytes:
    """Gives the bytes that `unpacked` reads."""
    return b"".join(state[name].tobytes() for name in layout)


def unpacked(data: bytes, layout: Layout) -> State:
    """Reads what `packed` gave."""
    state = {}
    position = 0
    for name, (dtype, shape) in layout.items():
        stop = position + prod(shape) * dtype.itemsize
        state[name] = np.frombuffer(data[position:stop], dtype).reshape(shape)
        position = stop
    return state
