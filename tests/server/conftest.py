"""Repositories on disk, and a loader that the test holds in its hands."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from normserve_server.lifecycle import Lifecycle
from normserve_server.metrics import Metrics
from normserve_server.model_config import ModelConfig
from normserve_server.model_control import ModelControl
from normserve_server.recording import Recorder
from normserve_server.repository import Repository
from normserve_server.session import LoadError
from normserve_server.settings import Settings
from normserve_server.tracing import Traces
from normserve_server.version import Loaded
from prometheus_client import CollectorRegistry

REPORT = {
    "folded": 1,
    "left": 2,
    "norms": [{"reason": None}, {"reason": "blocked"}, {"reason": "blocked"}],
    "errors": [{"folded": 2e-7, "unfolded": 3e-7}, {"folded": 4e-7, "unfolded": None}],
}


class FakeServable:
    provider = "CPUExecutionProvider"
    signature = ()

    def __init__(self, content: str) -> None:
        self.content = content


class FakeBatcher:
    """Closes once `idle` is set, and works while `broken` is None."""

    def __init__(self) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self.closed = 0
        self.broken: Exception | None = None
        self.probes = 0

    async def close(self) -> None:
        self.closed += 1
        await self.idle.wait()

    async def probe(self, timeout_seconds: float) -> None:
        self.probes += 1
        if self.broken:
            raise self.broken


class FakeLoader:
    """Loads what a version's file says: "bad" and "odd" fail; "slow" waits for `gate`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.loads: list[tuple[str, str]] = []
        self.configs: list[ModelConfig] = []
        self.given_back = 0

    async def load(self, folder: Path, labels: tuple[str, str], config: ModelConfig) -> Loaded:
        self.loads.append(labels)
        self.configs.append(config)
        path = folder / "model.onnx"
        if not path.exists():
            raise LoadError(f"{path}: No such file or directory")
        content = path.read_text()
        if content.startswith("slow"):
            await self.gate.wait()
        if content == "bad":
            raise LoadError("the fold failed its proof")
        if content == "odd":
            raise IsADirectoryError(21, "Is a directory")
        return Loaded(FakeServable(content), FakeBatcher(), REPORT)  # type: ignore[arg-type]

    def give_back(self) -> None:
        self.given_back += 1


class World:
    """A repository on disk, and what serves it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loader = FakeLoader()
        self.metrics = Metrics(CollectorRegistry())
        self.repository = Repository(self.metrics)
        self.recorder = Recorder(self.metrics, Traces())
        self.lifecycle = Lifecycle(self.repository, self.loader, self.metrics, self.recorder.flush)  # type: ignore[arg-type]

    def control(self, mode: str = "none", roots: tuple[Path, ...] = (), **settings: object) -> ModelControl:
        chosen = Settings(repository=roots or (self.root,), model_control_mode=mode, **settings)
        return ModelControl(chosen, self.repository, self.lifecycle)

    def put(self, path: str, content: str = "good", root: Path | None = None) -> Path:
        """Writes `<model>/<version>`'s model.onnx, or a file."""
        place = (root or self.root) / path
        file = place if place.suffix else place / "model.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return place

    def states(self) -> dict[str, str]:
        return self.repository.states()

    def reason(self, model: str, number: str = "") -> str:
        return self.repository.find(model, number).reason

    def content(self, model: str, number: str = "") -> str:
        """What the file said that a request would be served from."""
        return self.repository.serving(model, number).loaded.servable.content  # type: ignore[union-attr]

    def series(self) -> dict[str, float]:
        """normserve_model_ready, by "model/version"."""
        (family,) = self.metrics.model_ready.collect()
        return {f"{s.labels['model']}/{s.labels['version']}": s.value for s in family.samples}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await self.repository.next_change()


@pytest.fixture
async def world(tmp_path: Path) -> World:
    root = tmp_path / "repository"
    root.mkdir()
    return World(root)
