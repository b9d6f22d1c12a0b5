"""The models that are served: found on disk, prepared, opened, warmed up, and looked up by name and version.

Layout: `<repository>/<model>/<version>/model.onnx`, with an optional `<model>/config.pbtxt`. Versions are positive integers;
the highest one serves. A version that fails stays listed with its reason, and the others serve.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import structlog

from normserve_server import model_config
from normserve_server.calls import now
from normserve_server.errors import FailedVersionError, InvalidRequestError, NotFoundError, UnavailableError
from normserve_server.loading import Loader
from normserve_server.metrics import Metrics
from normserve_server.session import LoadError
from normserve_server.version import LOADING, READY, UNAVAILABLE, UNLOADING, Version

MAX_NAMES = 20  # of models, in an error's text
MAX_DIGITS = 18  # of a version, which is an int64 in the protocol

_log = structlog.get_logger(__name__)


class Repository:
    """All versions of all models.

    Args:
        root: the folder that holds one folder a model.
        loader: what turns a version's folder into something that serves.
        metrics: where load times and states are recorded.

    Attributes:
        changes: how often a version's state has changed: what was looked up before the last change may be wrong.
    """

    def __init__(self, root: Path, loader: Loader, metrics: Metrics) -> None:
        self._root = root
        self._loader = loader
        self._metrics = metrics
        self._models: dict[str, dict[int, Version]] = {}
        self._searched = False
        self.changes = 0

    @property
    def ready(self) -> bool:
        """Whether every version that is to serve does."""
        return self._searched and all(version.ready for version in self.versions())

    def states(self) -> dict[str, str]:
        """Each version's state, by "model/version"."""
        return {"/".join(version.labels): version.state for version in self.versions()}

    def versions(self) -> Iterator[Version]:
        """All versions, by model and number."""
        for name in sorted(self._models):
            for number in sorted(self._models[name]):
                yield self._models[name][number]

    def versions_of(self, model: str) -> list[str]:
        """The numbers of a model's versions, ascending."""
        return [version.number for version in self.versions() if version.model == model]

    def find(self, model: str, number: str = "") -> Version:
        """Looks a version up, whatever its state.

        Args:
            model: the model's name.
            number: the version's number; empty for the highest.

        Raises:
            NotFoundError: no such model or version.
            InvalidRequestError: the number is not one.
        """
        versions = self._models.get(model)
        if versions is None:
            raise NotFoundError(f"no model '{model}'; the repository has {self._names()}")
        if not number:
            return versions[max(versions)]
        if not number.isascii() or not number.isdigit():
            raise InvalidRequestError(f"version of model '{model}' is an integer, got '{number}'")
        version = versions.get(int(number)) if len(number) <= MAX_DIGITS else None
        if version is None:
            raise NotFoundError(f"no version {number} of model '{model}'; there is {', '.join(self.versions_of(model))}")
        return version

    def serving(self, model: str, number: str = "") -> Version:
        """Looks up a version that serves.

        Raises:
            NotFoundError, InvalidRequestError: as `find`.
            UnavailableError: it is loading, unloading or failed.
        """
        version = self.find(model, number)
        if version.ready:
            return version
        text = f"model '{model}' version {version.number} is {version.state}"
        raise FailedVersionError(f"{text}: {version.reason}") if version.reason else UnavailableError(text)

    async def load_all(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Finds all models on disk and loads the highest version of each; a failure is kept as that version's reason.

        Args:
            changed: is awaited when the models are known, and whenever one has been loaded or has failed.
        """
        found = [folder for folder in sorted(self._root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
        versions = [version for folder in found if (version := _highest(folder)) is not None]
        self._models = {version.model: {int(version.number): version} for version in versions}
        self._searched = True
        await changed()

        async def load(version: Version) -> None:
            await self._load(version)
            await changed()

        await asyncio.gather(*(load(version) for version in versions))

    async def unload_all(self) -> None:
        """Takes every version out of service, once what it accepted is done."""
        for version in self.versions():
            if version.ready:
                self._change(version, UNLOADING)
                await version.batcher.close()
            self._change(version, UNAVAILABLE, "unloaded")

    async def _load(self, version: Version) -> None:
        log = _log.bind(model=version.model, version=version.number)
        started = now()
        self._change(version, LOADING)
        try:
            config = await asyncio.to_thread(model_config.read, version.folder.parent)
            version.loaded = await self._loader.load(version.folder, version.labels, config)
        except LoadError as error:
            self._change(version, UNAVAILABLE, str(error))
            log.error("model failed to load", reason=version.reason)  # noqa: TRY400 - the reason says it all
            return
        except Exception as error:
            self._change(version, UNAVAILABLE, f"{type(error).__name__}: {error}")
            log.exception("model failed to load")
            return
        self._change(version, READY)
        self._record(version, now() - started)
        log.info("model ready", seconds=round(now() - started, 3), **version.properties)

    def _change(self, version: Version, state: str, reason: str = "") -> None:
        version.state, version.reason = state, reason
        self.changes += 1
        self._metrics.model_ready.labels(*version.labels).set(version.ready)

    def _record(self, version: Version, seconds: float) -> None:
        labels = version.labels
        self._metrics.load_seconds.labels(*labels).set(seconds)
        self._metrics.provider.labels(*labels, version.provider).set(1)
        for state, count in version.batch_norms.items():
            self._metrics.batch_norms.labels(*labels, state).set(count)
        for file, error in version.fold_errors.items():
            self._metrics.fold_error.labels(*labels, file).set(error)

    def _names(self) -> str:
        names = sorted(self._models)
        return ", ".join(names[:MAX_NAMES]) + (" ..." if len(names) > MAX_NAMES else "") if names else "none"


def _highest(folder: Path) -> Version | None:
    """The highest version in a model's folder; None, with a warning, where there is none."""
    try:
        numbers = [int(path.name) for path in folder.iterdir() if path.is_dir() and _is_version(path.name)]
    except OSError as error:
        _log.error("model's folder cannot be read", model=folder.name, reason=error.strerror)
        return None
    if not numbers:
        _log.warning("no versions in the model's folder", model=folder.name)
        return None
    return Version(folder.name, str(max(numbers)), folder / str(max(numbers)))


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0") and len(name) <= MAX_DIGITS
