"""The operators that a config puts before and behind a model: its parameter `operators`, held against the model's file."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from normserve_server.built_in.arguments import Kind
from normserve_server.built_in.operations import OPERATIONS, Operation
from normserve_server.errors import LoadError
from normserve_server.joined import Joined, Session
from normserve_server.operators import Compute
from normserve_server.servable import Signature, TensorSpec

# Those that need no more than their input; batch_norm's statistics belong into the model, where they are folded.
_OFFERED = {operation.operator: operation for operation in OPERATIONS if operation.operator != "batch_norm"}
_UNFIT = frozenset({"use_input_stats", "momentum"})  # of running statistics
_FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})


def joined(session: Session, wanted: Mapping[str, Mapping[str, Any]]) -> Joined:
    """Joins a session with operators.

    Args:
        session: the session.
        wanted: by tensor, "operator" and its arguments, as the built-in models have them.

    Raises:
        LoadError: a tensor, an operator or an argument that cannot be.
    """
    signature = session.signature
    before = {spec.name: spec for spec in signature.inputs}
    behind = {spec.name: spec for spec in signature.outputs if spec.name not in before}
    specs = {**before, **behind}
    _check_names(wanted, specs)
    if any(spec.datatype == "BYTES" for spec in (*signature.inputs, *signature.outputs)):
        raise LoadError("parameters[operators] is not for models with strings")
    computes = {name: _compute(specs[name], given, signature) for name, given in wanted.items()}
    return Joined(
        session, *({name: compute for name, compute in computes.items() if name in ends} for ends in (before, behind))
    )


def _check_names(wanted: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> None:
    for name in wanted:
        if name not in specs:
            raise LoadError(f"parameters[operators] names '{name}', the model's file has {', '.join(specs)}")


def _compute(spec: TensorSpec, given: Mapping[str, Any], signature: Signature) -> Compute:
    place = f"parameters[operators] of '{spec.name}'"
    if spec.datatype not in _FLOATS:
        raise LoadError(f"{place}: the tensor is {spec.datatype}, operators take {', '.join(sorted(_FLOATS))}")
    operation = _OFFERED.get(given["operator"]) if isinstance(given["operator"], str) else None
    if operation is None:
        raise LoadError(f"{place}: operator is one of {', '.join(_OFFERED)}, got {given['operator']!r}")
    values = _values(place, operation, {name: value for name, value in given.items() if name != "operator"})
    if signature.max_batch_size:
        _check_batch(place, operation, values, len(spec.shape))
    return partial(_call, operation, values)


def _call(operation: Operation, values: Mapping[str, Any], x: Any) -> Any:
    return operation.compute(input=x, **dict.fromkeys(operation.optional), **values)


def _values(place: str, operation: Operation, given: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: argument for name, argument in operation.arguments.items() if name not in _UNFIT}
    for name in given:
        if name not in arguments:
            raise LoadError(f"{place}: {operation.operator} takes {', '.join(arguments)} here, got '{name}'")
    for name, argument in arguments.items():
        if not argument.default and name not in given:
            raise LoadError(f"{place}: {operation.operator} needs {name}, {argument.kind.name}")
    return {name: _value(f"{place}: {name}", arguments[name].kind, value) for name, value in given.items()}


def _value(place: str, kind: Kind, value: Any) -> Any:
    try:
        return np.array(kind.read(json.dumps(value) if isinstance(value, list) else value), kind.dtype).tolist()
    except (TypeError, ValueError, OverflowError):
        raise LoadError(f"{place} is {kind.name}, got {value!r}") from None


def _check_batch(place: str, operation: Operation, values: Mapping[str, Any], rank: int) -> None:
    """A sample's outcome must not depend on whom it runs with."""
    over_batch = operation.operator == "normalize" and values.get("dim", 1) in {0, -rank}
    if over_batch or len(np.atleast_1d(values.get("normalized_shape", ()))) >= rank:
        raise LoadError(f"{place}: {operation.operator} would mix the samples of a batch")
