"""A model of the repository: its versions, and what is known about how they came."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from normserve_server.version import Version


@dataclass(slots=True, eq=False)
class Model:
    """A model, with the versions of it that serve, are to serve, or failed to.

    Attributes:
        name: its name.
        versions: by number.
        expected: whether the server is not ready without it: it was to serve from the start, or has served since.
        tried: by version number, the fingerprint of the last attempt.
        refused: whether the last attempt came to no version at all, for want of a config or of a name of its own.
        held: whether it is being loaded or unloaded.
    """

    name: str
    versions: dict[int, Version] = field(default_factory=dict)
    expected: bool = False
    tried: dict[int, Hashable] = field(default_factory=dict)
    refused: bool = False
    held: bool = False

    @property
    def ready(self) -> bool:
        """Whether a version serves."""
        return any(version.ready for version in self.versions.values())

    @property
    def best(self) -> Version | None:
        """The highest version that serves; where none does, the highest; None where there is none."""
        numbers = [number for number, version in self.versions.items() if version.ready] or list(self.versions)
        return self.versions[max(numbers)] if numbers else None
