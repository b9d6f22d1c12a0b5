"""What the built-in models are: each operator's tensors, arguments and how it is called."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from normserve_proto.tensors import Array

from normserve_server import operators
from normserve_server.built_in.arguments import BOOLEAN, EXTENTS, INTEGER, NUMBER, Argument
from normserve_server.errors import InvalidRequestError
from normserve_server.operators import Normalized, Place

PREFIX = "normserve."
INPUT, OUTPUT = "input", "output"
COUNT = "num_batches_tracked"
AFFINE = ("weight", "bias")

_STATISTICS = ("running_mean", "running_var")
_EPS = Argument(NUMBER, "1e-5")
_MOMENTUM = Argument(NUMBER, "0.1")


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """An operator as a model.

    Attributes:
        operator: its name.
        compute: called with `input`, with every optional tensor, None where it was not given, and with the given arguments.
        optional: the names of the tensors that may be left out.
        arguments: by name.
        training: the argument that says whether statistics are updated, where there are some; and `trains`, its default.
        sample: arguments with which it takes the `input` of `SAMPLE_SHAPE`.
    """

    operator: str
    compute: Callable[..., Normalized[Any]]
    optional: tuple[str, ...]
    arguments: Mapping[str, Argument]
    training: str = ""
    trains: bool = False
    sample: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The model's name."""
        return PREFIX + self.operator

    def updates(self, arguments: Mapping[str, Array]) -> bool:
        """Whether a call with these arguments updates the statistics that it brings."""
        return bool(self.training) and bool(arguments.get(self.training, self.trains))

    def statistics(self, tensors: Container[str]) -> tuple[str, ...]:
        """Names the statistics, of all that the operator takes, that are among these tensors."""
        return tuple(name for name in self.optional if name not in AFFINE and name in tensors)

    def run(self, place: Place, inputs: Mapping[str, Array]) -> list[Array]:
        """Computes the outputs: the input normalized, then each of its `statistics`, updated where that is so.

        Args:
            place: where operators compute.
            inputs: tensors and arguments by name.

        Raises:
            InvalidRequestError: they do not fit together.
        """
        arguments = {name: inputs[name] for name in self.arguments if name in inputs}
        tensors = {name: inputs.get(name) for name in self.optional}
        values = {name: array.tolist() for name, array in arguments.items()}
        normalized = place.run(inputs[INPUT], lambda x: self.compute(input=x, **tensors, **values))
        updated = {"running_mean": normalized.running_mean, "running_var": normalized.running_var}
        if COUNT in inputs and self.updates(arguments):
            updated[COUNT] = np.asarray(inputs[COUNT] + 1)
        return [normalized.output, *(_own(updated.get(name), inputs[name]) for name in self.statistics(inputs))]


def _own(updated: Array | None, given: Array) -> Array:
    """Nothing of an answer is in a request's memory, which may be the next one's before the answer is written."""
    return np.array(given) if updated is None else updated


def _batch_norm(
    *, num_batches_tracked: Array | None, training: bool = False, cumulative: bool = False, **others: Any
) -> Normalized[Any]:
    """With the count of torch.nn.BatchNorm, by which it also averages where its momentum is None."""
    count = 0
    if num_batches_tracked is not None and (training or cumulative):
        count = _count(num_batches_tracked)
    if cumulative:
        if "momentum" in others or num_batches_tracked is None:
            raise InvalidRequestError(f"parameter 'cumulative' takes input '{COUNT}' and no parameter 'momentum'")
        others["momentum"] = 1.0 / (count + 1)
    return operators.batch_norm(**others, training=training)


def _count(array: Array) -> int:
    if array.size != 1 or not 0 <= array.item() < 2**63 - 1:
        raise InvalidRequestError(f"input '{COUNT}' is one INT64 >= 0 that can be counted up, got {array.tolist()}")
    return int(array.item())


SAMPLE_SHAPE = (2, 2, 2)

OPERATIONS = (
    Operation(
        "batch_norm",
        _batch_norm,
        (*AFFINE, *_STATISTICS, COUNT),
        {
            "training": Argument(BOOLEAN, "false"),
            "momentum": _MOMENTUM,
            "eps": _EPS,
            "cumulative": Argument(BOOLEAN, "false"),
        },
        training="training",
        sample={"training": True},
    ),
    Operation(
        "instance_norm",
        operators.instance_norm,
        (*AFFINE, *_STATISTICS),
        {"use_input_stats": Argument(BOOLEAN, "true"), "momentum": _MOMENTUM, "eps": _EPS},
        training="use_input_stats",
        trains=True,
    ),
    Operation(
        "layer_norm",
        operators.layer_norm,
        AFFINE,
        {"normalized_shape": Argument(EXTENTS), "eps": _EPS},
        sample={"normalized_shape": [2]},
    ),
    Operation(
        "group_norm",
        operators.group_norm,
        AFFINE,
        {"num_groups": Argument(INTEGER), "eps": _EPS},
        sample={"num_groups": 1},
    ),
    Operation(
        "rms_norm",
        operators.rms_norm,
        ("weight",),
        {"normalized_shape": Argument(EXTENTS), "eps": Argument(NUMBER, "the machine epsilon of the computing type")},
        sample={"normalized_shape": [2]},
    ),
    Operation(
        "local_response_norm",
        operators.local_response_norm,
        (),
        {
            "size": Argument(INTEGER),
            "alpha": Argument(NUMBER, "1e-4"),
            "beta": Argument(NUMBER, "0.75"),
            "k": Argument(NUMBER, "1"),
        },
        sample={"size": 2},
    ),
    Operation(
        "normalize",
        operators.normalize,
        (),
        {"p": Argument(NUMBER, "2"), "dim": Argument(INTEGER, "1"), "eps": Argument(NUMBER, "1e-12")},
    ),
)
