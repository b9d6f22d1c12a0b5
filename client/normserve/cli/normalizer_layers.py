"""A normalizer's layer from the command line's options."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from typing import Any

from normserve.cli.console import InputError
from normserve.layers import BatchNormLayer, InstanceNormLayer, Layer, RunningNormLayer


class Kind(StrEnum):
    """The layers."""

    BATCH_NORM = "batch_norm"
    INSTANCE_NORM = "instance_norm"
    RUNNING_NORM = "running_norm"


_LAYERS: dict[Kind, type[Layer]] = {
    Kind.BATCH_NORM: BatchNormLayer,
    Kind.INSTANCE_NORM: InstanceNormLayer,
    Kind.RUNNING_NORM: RunningNormLayer,
}


def read(kind: Kind, given: Mapping[str, Any], cumulative: bool) -> Layer:
    """Makes the layer of what was given; the rest is as in PyTorch.

    Raises:
        InputError: something is missing, is not the layer's, or excludes something else.
    """
    values = dict(given)
    if cumulative:
        if "momentum" in values:
            raise InputError("--cumulative and --momentum exclude each other")
        values["momentum"] = None
    if "shape" in values:
        values["shape"] = _extents(values["shape"])
    layer = _LAYERS[kind]
    known = {field.name: field for field in fields(layer)}
    for name in values.keys() - known.keys():
        raise InputError(f"{kind} takes no {_flag(name, cumulative)}")
    for name, field in known.items():
        if field.default is MISSING and name not in values:
            raise InputError(f"{kind} needs {_flag(name, cumulative)}")
    return layer(**values)


def kind_of(layer: Layer) -> Kind:
    """Names a layer as the command line does."""
    return next(kind for kind, known in _LAYERS.items() if isinstance(layer, known))


def _flag(name: str, cumulative: bool) -> str:
    if name == "momentum" and cumulative:
        return "--cumulative"
    return "--features" if name == "num_features" else f"--{name.replace('_', '-')}"


def _extents(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(extent) for extent in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"--shape: wanted integers such as 4,84,84, got {text!r}") from None
