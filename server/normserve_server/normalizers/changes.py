"""What UpdateNormalizer may change, and how a field mask says so."""

from collections.abc import Callable, Iterable
from typing import Any

from normserve_proto import normalizers_pb2 as pb

from normserve_server.errors import InvalidRequestError
from normserve_server.normalizers.batch_norm import BatchNorm
from normserve_server.normalizers.instance_norm import InstanceNorm
from normserve_server.normalizers.layer import Layer
from normserve_server.normalizers.messages import clip_of, momentum_of, training_of, with_changes
from normserve_server.normalizers.records import Record
from normserve_server.normalizers.running_norm import RunningNorm

PATHS = (
    "mode",
    "batch_norm.momentum",
    "batch_norm.cumulative",
    "instance_norm.momentum",
    "instance_norm.cumulative",
    "running_norm.clip",
)
KINDS: dict[type, str] = {BatchNorm: "batch_norm", InstanceNorm: "instance_norm", RunningNorm: "running_norm"}


def of(message: pb.Normalizer, mask: Iterable[str]) -> Callable[[Record], tuple[Layer, bool]]:
    """Reads what is to be changed.

    Args:
        message: the new values.
        mask: which of them; empty for all that are set. What is in it and not set goes back to its default.

    Returns:
        What gives a record's layer and mode after the change; it raises InvalidRequestError where the layer is another kind.

    Raises:
        InvalidRequestError: there is nothing to change, something that cannot be, or a value that cannot be.
    """
    paths = set(mask) or {path for path in PATHS if _is_set(message, path)}
    unknown = sorted(paths - set(PATHS))
    if unknown or not paths:
        raise InvalidRequestError(f"update_mask: some of {', '.join(PATHS)} are wanted, got {', '.join(unknown) or 'none'}")
    training = training_of(message.mode)
    kinds = {path.partition(".")[0] for path in paths - {"mode"}}
    for kind in kinds:
        _new_numbers(kind, message, paths)

    def changed(record: Record) -> tuple[Layer, bool]:
        own = KINDS[type(record.layer)]
        if kinds - {own}:
            raise InvalidRequestError(f"the normalizer is a {own}, and has no {', '.join(sorted(paths - {'mode'}))}")
        layer = with_changes(record.layer, **_numbers(record.layer, own, message, paths)) if kinds else record.layer
        return layer, training if "mode" in paths else record.training

    return changed


def _numbers(layer: Any, kind: str, message: pb.Normalizer, paths: set[str]) -> dict[str, float | None]:
    numbers = _new_numbers(kind, message, paths)
    only_not_cumulative = f"{kind}.momentum" not in paths and numbers.get("momentum") is not None
    if only_not_cumulative and layer.momentum is not None:  # so it is already
        return {}
    return numbers


def _new_numbers(kind: str, message: pb.Normalizer, paths: set[str]) -> dict[str, float | None]:
    """Reads those fields of one kind of layer that the mask names."""
    fields = [path.partition(".")[2] for path in paths if path.startswith(f"{kind}.")]
    given: Any = getattr(message, kind)
    masked = type(given)(**{field: getattr(given, field) for field in fields if _is_set(message, f"{kind}.{field}")})
    return {"clip": clip_of(masked)} if kind == "running_norm" else {"momentum": momentum_of(masked)}


def _is_set(message: pb.Normalizer, path: str) -> bool:
    kind, _, field = path.partition(".")
    if not field:
        return message.mode != pb.MODE_UNSPECIFIED
    layer: Any = getattr(message, kind)
    return bool(layer.cumulative) if field == "cumulative" else bool(layer.HasField(field))
