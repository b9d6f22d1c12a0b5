"""What people are told of each version beside its numbers: its state, what computes it, and what became of its batch norms."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:  # the supervisor, which has no models, only reads what its workers have packed
    from normserve_server.repository import Repository
    from normserve_server.version import Version

MAX_NORMS = 50  # batch norms that stayed, told one by one

Describe: TypeAlias = "Callable[[], Sequence[Description]]"


@dataclass(frozen=True, slots=True)
class Description:
    """A version.

    Attributes:
        model: the model's name.
        version: its number.
        state: one of the protocol's.
        reason: why it does not serve, or why what is newer in its folder does not; else empty.
        built_in: whether it is part of the service.
        provider: what computes it; empty where it is not loaded, as all that follows.
        batch_norms: how many were "folded" and "left"; empty where nothing was folded.
        left_because: how many stayed for which reason.
        left: of those, at most `MAX_NORMS`: name, scale, reason and detail.
        errors: the largest relative error of an output against float64, of the "folded" and of the "unfolded" file.
    """

    model: str
    version: str
    state: str
    reason: str = ""
    built_in: bool = False
    provider: str = ""
    batch_norms: Mapping[str, int] = field(default_factory=dict)
    left_because: Mapping[str, int] = field(default_factory=dict)
    left: Sequence[Mapping[str, Any]] = ()
    errors: Mapping[str, float] = field(default_factory=dict)


class Descriptions:
    """Describes all versions; again only when a state has changed.

    Args:
        repository: the models.
    """

    def __init__(self, repository: "Repository") -> None:
        self._repository = repository
        self._changes = -1
        self._described: list[Description] = []

    def __call__(self) -> Sequence[Description]:
        """Gives them by model and number."""
        if self._changes != self._repository.changes:
            self._changes = self._repository.changes
            self._described = [_described(version) for version in self._repository.versions()]
        return self._described


def packed(descriptions: Sequence[Description]) -> bytes:
    """Gives the bytes that `unpacked` reads."""
    return json.dumps([asdict(each) for each in descriptions]).encode()


def unpacked(data: bytes) -> list[Description]:
    """Reads what `packed` gave."""
    return [Description(**each) for each in json.loads(data)]


def _described(version: "Version") -> Description:
    common = (version.model, version.number, version.state, version.reason, version.built_in)
    if version.loaded is None:
        return Description(*common)
    stayed = [norm for norm in version.loaded.report.get("norms", ()) if not norm["folded"]]
    return Description(
        *common,
        provider=version.provider,
        batch_norms=version.batch_norms,
        left_because=dict(Counter(norm["reason"] for norm in stayed).most_common()),
        left=[{name: norm[name] for name in ("name", "scale", "reason", "detail")} for norm in stayed[:MAX_NORMS]],
        errors=version.fold_errors,
    )
