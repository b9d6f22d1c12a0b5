"""Loading, swapping and unloading, one model at a time.

A swap, in order: the new version is prepared, opened and warmed beside the old one; it becomes READY, and from then on is what
lookups find; the old one takes nothing more, finishes what it accepted, and its memory comes back. A version that fails leaves
what serves as it is. Two models may load at the same time, one model only once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import structlog

from normserve_server import load_request, model_config
from normserve_server.calls import now
from normserve_server.departures import Departures
from normserve_server.loading import Loader
from normserve_server.metrics import Metrics
from normserve_server.model import Model
from normserve_server.model_config import ModelConfig
from normserve_server.repository import Repository
from normserve_server.repository_scan import Source
from normserve_server.session import LoadError
from normserve_server.version import LOADING, READY, UNAVAILABLE, UNLOADING, Version
from normserve_server.version_policy import wanted

_log = structlog.get_logger(__name__)


class Lifecycle:
    """Brings models into service and out of it.

    Args:
        repository: where they are listed.
        loader: what turns a version's folder into something that serves.
        metrics: where load times are recorded.
        settle: records the calls that have been answered.
    """

    def __init__(self, repository: Repository, loader: Loader, metrics: Metrics, settle: Callable[[], None]) -> None:
        self._repository = repository
        self._loader = loader
        self._metrics = metrics
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._departures = Departures(repository, settle, loader.give_back)

    async def load(self, name: str, source: Source, *, again: bool = False) -> str:
        """Makes a model serve the versions of `source` that its policy wants; what is loaded and has not changed stays.

        Args:
            name: the model's.
            source: its folder, as it was found.
            again: also tries versions that failed and have not changed since.

        Returns:
            Why not all of them serve; empty where they do.
        """
        async with self._held(name) as model:
            try:
                return await self._load(model, source, again)
            finally:
                await asyncio.to_thread(load_request.discard_unused, source, list(model.versions.values()))

    async def unload(self, name: str, *, forget: bool = False) -> None:
        """Takes a model out of service, once what it accepted is done.

        Args:
            name: the model's.
            forget: lists it no more, because it is nowhere any more.
        """
        async with self._held(name) as model:
            model.expected = False
            model.tried.clear()
            await self._departures.end(model.versions.values(), keep=not forget)

    async def unload_all(self) -> None:
        """Takes every version out of service, once what it accepted is done."""
        await self._departures.end(self._repository.versions(), keep=True)
        await self._departures.finish()

    async def _load(self, model: Model, source: Source, again: bool) -> str:
        config = await _config(source)
        if isinstance(config, str):
            return self._refuse(model, source, config)
        self._accept(model)
        numbers = wanted(config.message.version_policy, source.versions)
        if not numbers:
            return self._refuse(model, source, "its version_policy names no version")
        due = [number for number in numbers if _due(model, source, number, again)]
        reasons = await asyncio.gather(*(self._bring(model, source, number, config) for number in due))
        self._retire(model, numbers, source)
        return "; ".join(f"version {number}: {reason}" for number, reason in zip(due, reasons, strict=True) if reason)

    async def _bring(self, model: Model, source: Source, number: int, config: ModelConfig) -> str:
        """Loads one version beside whatever has its number; gives why it does not serve, or nothing."""
        version = _version(model, source, number)
        before, swaps = _serving(model, number), model.ready
        if before is None:
            self._repository.put(version)
            self._repository.change(version, LOADING)
        model.tried[number] = source.fingerprint(number)
        reason = await self._open(version, config)
        if swaps:
            self._metrics.swaps.labels(model.name, "failed" if reason else "done").inc()
        if reason:
            self._failed(before or version, reason)
            return reason
        self._metrics.begin_swaps(model.name)
        model.expected = True
        self._repository.put(version)
        self._repository.change(version, READY)
        if before is not None:
            self._departures.begin(before, keep=False)
        return ""

    async def _open(self, version: Version, config: ModelConfig) -> str:
        log = _log.bind(model=version.model, version=version.number)
        started = now()
        try:
            version.loaded = await self._loader.load(version.folder, version.labels, config)
        except LoadError as error:
            log.error("model failed to load", reason=str(error))  # noqa: TRY400 - the reason says it all
            return str(error)
        except Exception as error:
            log.exception("model failed to load")
            return f"{type(error).__name__}: {error}"
        self._record(version, now() - started)
        log.info("model ready", seconds=round(now() - started, 3), **version.properties)
        return ""

    def _failed(self, version: Version, reason: str) -> None:
        """Notes why what is on disk does not serve: an older state of it may, and goes on doing so."""
        self._repository.change(version, version.state if version.loaded else UNAVAILABLE, reason)

    def _refuse(self, model: Model, source: Source, reason: str) -> str:
        """Notes why nothing at all can be loaded from a source."""
        _log.error("model failed to load", model=model.name, reason=reason)
        model.refused = True
        loaded = [version for version in model.versions.values() if version.loaded is not None]
        if model.ready:
            self._metrics.swaps.labels(model.name, "failed").inc()
        if not loaded and source.versions:
            loaded = [_version(model, source, max(source.versions))]
            self._repository.put(loaded[0])
        for version in loaded:
            self._failed(version, reason)
        return reason

    def _accept(self, model: Model) -> None:
        """Takes back what was noted of what serves when nothing at all could be loaded."""
        for version in model.versions.values() if model.refused else ():
            if version.ready:
                self._repository.change(version, READY)
        model.refused = False

    def _retire(self, model: Model, numbers: Iterable[int], source: Source) -> None:
        """Takes the versions out that are wanted no more, unless one that was to take their place has failed."""
        ready = {number for number in numbers if model.versions[number].ready}
        complete = ready.issuperset(number for number in numbers if number in source.versions)
        for number, version in list(model.versions.items()):
            gone = bool(ready) and number not in source.versions
            if number not in numbers and (complete or gone or version.loaded is None):
                model.tried.pop(number, None)
                self._departures.begin(version, keep=False)

    @asynccontextmanager
    async def _held(self, name: str) -> AsyncIterator[Model]:
        """A model that nobody else loads or unloads."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            model = self._repository.entry(name)
            model.held = True
            try:
                yield model
            finally:
                model.held = False
                self._repository.tidy(model)

    def _record(self, version: Version, seconds: float) -> None:
        labels = version.labels
        self._metrics.load_seconds.labels(*labels).set(seconds)
        self._metrics.warm_up_seconds.labels(*labels).set(version.warm_up_seconds)
        self._metrics.provided_by(*labels, version.provider)
        for state, count in version.batch_norms.items():
            self._metrics.batch_norms.labels(*labels, state).set(count)
        for file, error in version.fold_errors.items():
            self._metrics.fold_error.labels(*labels, file).set(error)


async def _config(source: Source) -> ModelConfig | str:
    """Reads a model's config; a text says why nothing can be loaded."""
    if source.problem or not source.versions:
        return source.problem or f"there is no version in {source.folder}"
    try:
        return await asyncio.to_thread(model_config.read, source.folder, source.override)
    except LoadError as error:
        return str(error)
    except OSError as error:
        return f"{model_config.FILE}: {error.strerror}"


def _serving(model: Model, number: int) -> Version | None:
    """The version of that number that may have calls, whether it is ready or not."""
    version = model.versions.get(number)
    return version if version is not None and version.loaded is not None and version.state != UNLOADING else None


def _version(model: Model, source: Source, number: int) -> Version:
    return Version(model.name, str(number), source.folder / str(number), temporary=source.temporary)


def _due(model: Model, source: Source, number: int, again: bool) -> bool:
    """Whether a version has changed since it was last tried, or is to be tried again because it failed then or since."""
    if model.tried.get(number) != source.fingerprint(number):
        return True
    version = model.versions.get(number)
    return again and (version is None or not version.ready or bool(version.reason))
