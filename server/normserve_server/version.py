"""One version of a model: its state, and what serves it while it is ready."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normserve_server.batching import Batcher
from normserve_server.servable import Servable, Signature

# The states of the protocol's RepositoryIndex.
LOADING = "LOADING"
READY = "READY"
UNLOADING = "UNLOADING"
UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What serves a version.

    Attributes:
        servable: the model itself.
        batcher: its queue, and the instances behind it.
        report: report.json of its folding; empty where nothing was folded.
    """

    servable: Servable
    batcher: Batcher
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Version:
    """A version of a model.

    Attributes:
        model: the model's name.
        number: the version's number, as text, as it travels on the wire.
        folder: where its files are.
        state: one of the protocol's states.
        reason: why it does not serve; empty while it does.
        loaded: what serves it; None before.
    """

    model: str
    number: str
    folder: Path
    state: str = LOADING
    reason: str = ""
    loaded: Loaded | None = None

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.state == READY

    @property
    def labels(self) -> tuple[str, str]:
        """Its metric labels: model and version."""
        return self.model, self.number

    @property
    def signature(self) -> Signature:
        """What it takes and gives; only once it is loaded."""
        return self._loaded().servable.signature

    @property
    def batcher(self) -> Batcher:
        """Where its requests go; only once it is loaded."""
        return self._loaded().batcher

    @property
    def provider(self) -> str:
        """What computes it; only once it is loaded."""
        return self._loaded().servable.provider

    @property
    def batch_norms(self) -> dict[str, int]:
        """How many batch norms of its file were "folded" and "left"; empty where folding is off."""
        report = self._loaded().report
        return {state: int(report[state]) for state in ("folded", "left") if state in report}

    @property
    def properties(self) -> dict[str, str]:
        """What ModelMetadata tells of it beyond the signature."""
        counts = {f"batch_norms_{state}": str(count) for state, count in self.batch_norms.items()}
        return {"provider": self.provider, **counts}

    def _loaded(self) -> Loaded:
        if self.loaded is None:
            raise RuntimeError(f"model '{self.model}' version {self.number} is not loaded")
        return self.loaded
