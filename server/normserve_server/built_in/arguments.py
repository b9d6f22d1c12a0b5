"""The arguments of operators, as requests' parameters bring them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from normserve_proto.tensors import Array

from normserve_server import parameters
from normserve_server.errors import InvalidRequestError
from normserve_server.parameters import Parameters

# What the protocol and Triton's clients give every request.
COMMON = frozenset(
    {"timeout", "priority", "sequence_id", "sequence_start", "sequence_end", "triton_enable_empty_final_response"}
)
MOST_TEXT = 2048  # characters, in which any 64 extents have room, and a tensor has no more
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Kind:
    """What an argument may be.

    Attributes:
        name: in errors' texts.
        dtype: of the array that it becomes.
        read: gives the value of a parameter's value, or raises TypeError or ValueError.
    """

    name: str
    dtype: type
    read: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of an operator.

    Attributes:
        kind: what it may be.
        default: what holds where it is not given, in words; empty where it has to be.
    """

    kind: Kind
    default: str = ""

    @property
    def description(self) -> str:
        """As ModelConfig tells it."""
        return f"{self.kind.name}; {f'default {self.default}' if self.default else 'required'}"


def read(given: Parameters, arguments: Mapping[str, Argument], whose: str) -> dict[str, Array]:
    """Reads a request's parameters.

    Args:
        given: the parameters.
        arguments: what the operator takes.
        whose: the model's name, for errors' texts.

    Returns:
        Arrays by name, in the operator's order: scalars, of which `tolist` is a Python number, and extents.

    Raises:
        InvalidRequestError: one is unknown, missing or of another kind.
    """
    _check_names(given, arguments, whose)
    return {name: _read(name, argument.kind, given[name]) for name, argument in arguments.items() if name in given}


def _check_names(given: Parameters, arguments: Mapping[str, Argument], whose: str) -> None:
    unknown = sorted(name for name in set(given) - COMMON - set(arguments) if not name.startswith("triton_"))
    if unknown:
        raise InvalidRequestError(f"parameter '{unknown[0]}' of {whose} is unknown; there is {', '.join(arguments)}")
    for name, argument in arguments.items():
        if not argument.default and name not in given:
            raise InvalidRequestError(f"missing parameter '{name}' of {whose}, {argument.kind.name}")


def _read(name: str, kind: Kind, given: Any) -> Array:
    value = parameters.value(given)
    try:
        return np.array(kind.read(value), kind.dtype)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise InvalidRequestError(f"parameter '{name}' is {kind.name}, got {value!r}") from None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    return float(value)


def _integer(value: Any) -> int:
    number = int(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int) or number not in _INT64:
        raise ValueError
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value not in {"true", "false"}:
        raise ValueError
    return bool(value == "true")


def _extents(value: Any) -> Sequence[int]:
    """Text is a list of JSON, or numbers with commas between them."""
    if not isinstance(value, str):
        return [_integer(value)]
    if len(value) > MOST_TEXT:
        raise ValueError
    listed = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
    return [_integer(extent) for extent in listed]


NUMBER = Kind("a number", np.float64, _number)
INTEGER = Kind("an integer", np.int64, _integer)
BOOLEAN = Kind("a bool, or the text true or false", np.bool_, _boolean)
EXTENTS = Kind("an integer, or the text of several, such as 2,3 or [2,3]", np.int64, _extents)
