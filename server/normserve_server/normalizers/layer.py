"""What every kind of layer can do, and what batch and instance norm have in common."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from normserve_proto.tensors import DTYPES, Array, datatype_of

from normserve_server.errors import InvalidRequestError
from normserve_server.normalizers.kernels import Statistics
from normserve_server.normalizers.state_dicts import expect

State: TypeAlias = dict[str, Array]
Layout: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]

FLOATS = ("FP16", "BF16", "FP32", "FP64")
INPUTS = {"FP32": FLOATS[:3], "FP64": FLOATS[3:]}  # by a layer's datatype
SINCE_COUNTED = 2  # the version of torch's state dicts that have num_batches_tracked
COUNTER = "num_batches_tracked"


class Layer(Protocol):
    """A layer without its state: plain numbers, and pure functions of states.

    A state is arrays by name, all that changes; `layout` says which. Statistics of one input are what `observed` gives and
    `merged` takes, and nothing else knows what is in them.
    """

    def layout(self) -> Layout:
        """Names, dtypes and shapes of a state's arrays, in torch's order."""

    def initial(self) -> State:
        """The state of a new layer."""

    def observed(self, x: Array) -> Any:
        """The statistics of an input, as training takes them.

        Raises:
            InvalidRequestError: the layer does not take this input in training, or has no statistics to update.
        """

    def merged(self, state: State, statistics: Any) -> State:
        """The state after an update."""

    def normalized(self, x: Array, state: State, *, training: bool) -> Array:
        """The output, with the input's dtype and shape; in training `state` is the one after the update.

        Raises:
            InvalidRequestError: the layer does not take this input.
        """

    def exported(self, state: State) -> State:
        """What torch's state_dict() holds."""

    def loaded(self, tensors: State, version: int, present: State) -> State:
        """The state that torch's load_state_dict() makes of it.

        Raises:
            InvalidRequestError: names, shapes or values are not the layer's.
        """

    def adopted(self, state: State) -> State:
        """The state of a layer that is the same but for the numbers that may be changed, as this layer's."""

    @property
    def updates(self) -> bool:
        """Whether training updates anything."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """A layer over channels, with torch's parameters and buffers.

    Attributes:
        num_features: C.
        dimensions: which of torch's three layers; 0 for any rank.
        momentum: weight of an input in the update; None for torch's None.
        affine: whether there are weight and bias.
        updates: whether there are running statistics.
        datatype: of them all, FP32 or FP64.
    """

    num_features: int
    dimensions: int = 0
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    updates: bool = True
    datatype: str = "FP32"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of parameters, and of what `exported` gives."""
        return DTYPES[self.datatype]

    @property
    def statistics_dtype(self) -> np.dtype[Any]:
        """Of the running statistics as they are kept."""
        return self.dtype

    def layout(self) -> Layout:
        """Names, dtypes and shapes of a state's arrays, in torch's order."""
        vector = (self.num_features,)
        parameters: Layout = {"weight": (self.dtype, vector), "bias": (self.dtype, vector)} if self.affine else {}
        if not self.updates:
            return parameters
        kept = (self.statistics_dtype, vector)
        return parameters | {"running_mean": kept, "running_var": kept, COUNTER: (DTYPES["INT64"], ())}

    def initial(self) -> State:
        """The state of a new layer."""
        ones = ("weight", "running_var")
        return {name: np.full(shape, name in ones, dtype) for name, (dtype, shape) in self.layout().items()}

    def exported(self, state: State) -> State:
        """What torch's state_dict() holds."""
        return {name: array if name == COUNTER else array.astype(self.dtype, copy=False) for name, array in state.items()}

    def loaded(self, tensors: State, version: int, present: State) -> State:
        """The state that torch's load_state_dict() makes of it."""
        if self.updates and version < SINCE_COUNTED and COUNTER not in tensors:
            tensors = {**tensors, COUNTER: present[COUNTER]}
        state = expect(tensors, present)
        if self.updates and state[COUNTER] < 0:
            raise InvalidRequestError(f"{COUNTER} is >= 0, got {state[COUNTER]}")
        if self.updates and (state["running_var"] < 0).any():
            raise InvalidRequestError(f"running_var is >= 0, got {state['running_var'].min()}")
        return state

    def adopted(self, state: State) -> State:
        """The same values in the dtypes that this layer keeps them in."""
        return {name: state[name].astype(dtype, copy=False) for name, (dtype, _) in self.layout().items()}

    def _parameters(self, state: State) -> tuple[Array | None, Array | None]:
        return state.get("weight"), state.get("bias")

    def _running(self, state: State) -> Statistics:
        return Statistics(*(state[name].astype(self.dtype, copy=False) for name in ("running_mean", "running_var")))

    def _check_datatype(self, x: Array) -> None:
        wanted = INPUTS[self.datatype] if self.affine or self.updates else FLOATS
        if datatype_of(x) not in wanted:
            raise InvalidRequestError(f"input beside {self.datatype} state is {', '.join(wanted)}, got {datatype_of(x)}")

    def _check_updates(self) -> None:
        if not self.updates:
            raise InvalidRequestError("the normalizer does not track running statistics: there is nothing to update")
