"""What is loaded, and when: at the start, as the repositories' folders change, or as callers say.

Mode `none`: everything, at the start. `poll`: that, and from then on whatever changes on disk. `explicit`: what is named at the
start, and then what RepositoryModelLoad and RepositoryModelUnload name.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from normserve_server import model_config
from normserve_server.background import Background
from normserve_server.errors import ControlError, InvalidRequestError, ModelLoadError, NotFoundError
from normserve_server.lifecycle import Lifecycle
from normserve_server.load_request import LoadRequest, written
from normserve_server.repository import Repository
from normserve_server.repository_scan import Source, scan, scan_model
from normserve_server.session import LoadError
from normserve_server.settings import ALL_MODELS, Settings
from normserve_server.version import UNAVAILABLE

_log = structlog.get_logger(__name__)


class ModelControl:
    """Says to the lifecycle what to load.

    Args:
        settings: the repositories' folders, the mode, what to load at the start, how often to look.
        repository: where models are listed.
        lifecycle: what loads and unloads them.
    """

    def __init__(self, settings: Settings, repository: Repository, lifecycle: Lifecycle) -> None:
        self._settings = settings
        self._repository = repository
        self._lifecycle = lifecycle
        self._background = Background()
        self._busy: set[str] = set()
        self._seen: dict[str, Source] = {}
        self._empty: set[str] = set()

    @property
    def explicit(self) -> bool:
        """Whether callers load and unload."""
        return self._settings.model_control_mode == "explicit"

    async def start(self) -> None:
        """Loads what is to serve from the start; a failure is kept as the model's reason.

        Raises:
            OSError: a repository cannot be read.
        """
        found = await self._scan()
        chosen = {name: source for name, source in found.items() if self._at_start(name)}
        for name, source in chosen.items():
            self._repository.entry(name).expected = bool(source.versions)
        if self.explicit:
            self._repository.relist(found)
        else:
            self._seen = found
        self._repository.searched = True
        self._repository.note()
        await asyncio.gather(*(self._lifecycle.load(name, source) for name, source in chosen.items()))

    async def watch(self) -> None:
        """In mode `poll`, follows the repositories for ever; else returns."""
        while self._settings.model_control_mode == "poll":
            await asyncio.sleep(self._settings.repository_poll_seconds)
            try:
                await self.poll()
            except OSError as error:  # a network drive that is away for a while: what serves goes on
                _log.error("repository cannot be read", reason=str(error))

    async def poll(self) -> None:
        """Looks once, and begins to load and unload what has changed; a model that is still at it is left for the next time."""
        found = await self._scan()
        for name in (found.keys() | self._seen.keys()) - self._busy:
            source = found.get(name)
            if source is None:
                del self._seen[name]
                self._begin(name, partial(self._lifecycle.unload, name, forget=True))
            elif source != self._seen.get(name):
                self._seen[name] = source
                self._begin(name, partial(self._lifecycle.load, name, source))

    async def look(self) -> None:
        """In mode `explicit`, lists what could be loaded as it is on disk now."""
        if self.explicit:
            self._repository.relist(await self._scan())

    async def load(self, request: LoadRequest) -> None:
        """Loads a model, or what has changed of it, and waits until it serves. A caller that leaves does not end the loading.

        Raises:
            ControlError: callers do not load in this mode.
            NotFoundError: there is no such model or repository.
            InvalidRequestError: the config is none, or the model is built in.
            ModelLoadError: it does not load; what served before goes on.
        """
        self._check(request.model)
        await asyncio.shield(self._background.spawn(self._load(request)))

    async def unload(self, model: str, repository: str = "") -> None:
        """Takes a model out of service, and waits until what it accepted is done.

        Raises:
            ControlError: callers do not unload in this mode.
            InvalidRequestError: the model is built in.
            NotFoundError: there is no such model or repository.
        """
        self._check(model)
        await self.look()
        versions = [version for version in self._repository.versions() if version.model == model]
        if not versions or (repository and not any(version.within(self.roots(repository)) for version in versions)):
            raise NotFoundError(f"no model '{model}' in {repository or 'the repository'}")
        await asyncio.shield(self._background.spawn(self._lifecycle.unload(model)))

    def roots(self, repository: str) -> tuple[Path, ...]:
        """The folders of a repository, named by its path or by the last part of that; all for an empty name.

        Raises:
            NotFoundError: there is no such repository.
        """
        roots = self._settings.repository
        chosen = tuple(root for root in roots if repository in {"", str(root), root.name})
        if not chosen:
            raise NotFoundError(f"no repository '{repository}'; there is {', '.join(map(str, roots))}")
        return chosen

    async def close(self) -> None:
        """Ends what is loading, and takes everything out of service."""
        await self._background.close()
        await self._lifecycle.unload_all()

    async def _load(self, request: LoadRequest) -> None:
        source = await self._source(request)
        reason = await self._lifecycle.load(request.model, source, again=True)
        if reason:
            raise ModelLoadError(f"model '{request.model}' does not load: {reason}")

    async def _source(self, request: LoadRequest) -> Source:
        roots = self.roots(request.repository)
        found = None if request.files else await asyncio.to_thread(scan_model, self._settings.repository, request.model)
        if not request.files and (found is None or found.folder.parent not in roots):
            raise NotFoundError(f"no model '{request.model}' in {', '.join(map(str, roots))}")
        await asyncio.to_thread(_check_config, request, found)
        if found is not None:
            return replace(found, override=request.config)
        try:
            return await asyncio.to_thread(written, request)
        except OSError as error:
            raise ModelLoadError(f"model '{request.model}': its files cannot be written: {error.strerror}") from error

    async def _scan(self) -> dict[str, Source]:
        found = await asyncio.to_thread(scan, self._settings.repository)
        empty = {name for name, source in found.items() if not source.versions and not source.problem}
        for name in sorted(empty - self._empty):
            _log.warning("no versions in the model's folder", model=name)
        self._empty = empty
        taken = {name: found[name].folder for name in found if self._repository.built_in(name)}
        self._note_taken(taken)
        return {name: source for name, source in found.items() if name not in empty | taken.keys()}

    def _note_taken(self, folders: Mapping[str, Path]) -> None:
        """Says of built-in models that folders have their names, and that these are not served."""
        for version in [version for version in self._repository.versions() if version.built_in]:
            folder = folders.get(version.model)
            reason = f"{folder} is not served: the name is a built-in model's" if folder else ""
            if version.state == UNAVAILABLE or reason == version.reason:
                continue
            if reason:
                _log.error("model failed to load", model=version.model, reason=reason)
            self._repository.change(version, version.state, reason)

    def _at_start(self, name: str) -> bool:
        return not self.explicit or not {name, ALL_MODELS}.isdisjoint(self._settings.load_model)

    def _check(self, model: str) -> None:
        if not self.explicit:
            mode = self._settings.model_control_mode
            raise ControlError(f"model control mode is '{mode}'; load and unload need --model-control-mode explicit")
        if self._repository.built_in(model):
            raise InvalidRequestError(f"model '{model}' is built in: it always serves, and is neither loaded nor unloaded")

    def _begin(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        async def run() -> None:
            try:
                await work()
            finally:
                self._busy.discard(name)

        self._busy.add(name)
        self._background.spawn(run())


def _check_config(request: LoadRequest, found: Source | None) -> None:
    """A config that the request brought is the request's fault, and nothing is touched for it."""
    if request.config is None:
        return
    try:
        model_config.read(found.folder if found else Path(request.model), request.config)
    except LoadError as error:
        raise InvalidRequestError(f"model '{request.model}': {error}") from None
