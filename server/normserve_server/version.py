"""One version of a model: its state, and what serves it while it is ready."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from normserve_proto import open_inference_pb2 as pb

from normserve_server import validation
from normserve_server.batching import Batcher
from normserve_server.servable import Servable, Signature
from normserve_server.statistics import Statistics
from normserve_server.validation import Plan

Planner: TypeAlias = Callable[[Signature, pb.ModelInferRequest], Plan]

# The states of the protocol's RepositoryIndex.
LOADING = "LOADING"
READY = "READY"
UNLOADING = "UNLOADING"
UNAVAILABLE = "UNAVAILABLE"

# Reasons of versions that could serve, but are not meant to.
NOT_LOADED = "not loaded"
UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What serves a version.

    Attributes:
        servable: the model itself.
        batcher: its queue, and the instances behind it.
        report: report.json of its folding; empty where nothing was folded.
        config: how it is served, completed from the model's file; what the ModelConfig RPC answers.
        statistics: what its requests add up to.
        labels: by output, the labels of its classes.
        plan: holds a request's head against the signature.
        warm_up_seconds: that the first inferences took.
    """

    servable: Servable
    batcher: Batcher
    report: Mapping[str, Any] = field(default_factory=dict)
    config: pb.ModelConfig = field(default_factory=pb.ModelConfig)
    statistics: Statistics = field(default_factory=Statistics)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plan: Planner = validation.plan
    warm_up_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Version:
    """A version of a model.

    Attributes:
        model: the model's name.
        number: the version's number, as text, as it travels on the wire.
        folder: where its files are.
        state: one of the protocol's states.
        reason: why it does not serve, or why what is newer in its folder does not; else empty.
        loaded: what serves it; None before and after.
        temporary: whether its folder was made for it, and goes with it.
        built_in: whether it is part of the service, and has no folder.
    """

    model: str
    number: str
    folder: Path
    state: str = LOADING
    reason: str = ""
    loaded: Loaded | None = None
    temporary: bool = False
    built_in: bool = False

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
    def class_labels(self) -> Mapping[str, tuple[str, ...]]:
        """By output, the labels of its classes; only once it is loaded."""
        return self._loaded().labels

    @property
    def config(self) -> pb.ModelConfig:
        """How it is served; only once it is loaded."""
        return self._loaded().config

    @property
    def statistics(self) -> Statistics:
        """What its requests add up to; only once it is loaded."""
        return self._loaded().statistics

    @property
    def provider(self) -> str:
        """What computes it; only once it is loaded."""
        return self._loaded().servable.provider

    @property
    def warm_up_seconds(self) -> float:
        """How long its first inferences took; only once it is loaded."""
        return self._loaded().warm_up_seconds

    @property
    def batch_norms(self) -> dict[str, int]:
        """How many batch norms of its file were "folded" and "left"; empty where folding is off."""
        report = self._loaded().report
        return {state: int(report[state]) for state in ("folded", "left") if state in report}

    @property
    def fold_errors(self) -> dict[str, float]:
        """The largest relative error of an output against float64, of the "folded" and the "unfolded" file.

        Empty where nothing was folded; without a file that was not finite.
        """
        errors = self._loaded().report.get("errors", ())
        found = {file: [error[file] for error in errors] for file in ("folded", "unfolded")}
        return {file: max(figures) for file, figures in found.items() if figures and None not in figures}

    @property
    def properties(self) -> dict[str, str]:
        """What ModelMetadata tells of it beyond the signature."""
        counts = {f"batch_norms_{state}": str(count) for state, count in self.batch_norms.items()}
        reasons = Counter(norm["reason"] for norm in self._loaded().report.get("norms", ()) if norm["reason"] is not None)
        stayed = {"batch_norms_left_because": ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())}
        errors = {f"error_{file}": f"{error:.3g}" for file, error in self.fold_errors.items()}
        return {"provider": self.provider, **counts, **(stayed if reasons else {}), **errors}

    def within(self, roots: Sequence[Path]) -> bool:
        """Whether its files are in one of these repositories."""
        return not self.built_in and self.folder.parent.parent in roots

    def plan(self, message: pb.ModelInferRequest) -> Plan:
        """Holds a request's head against what it takes; only once it is loaded. Raises as `validation.plan`."""
        return self._loaded().plan(self.signature, message)

    def release(self) -> Loaded:
        """Gives up what serves it, so that its memory can come back although somebody still knows this version."""
        loaded, self.loaded = self._loaded(), None
        return loaded

    def _loaded(self) -> Loaded:
        if self.loaded is None:
            raise RuntimeError(f"model '{self.model}' version {self.number} is not loaded")
        return self.loaded
