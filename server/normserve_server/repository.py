"""The models that are served, and their states, looked up by name and version.

Only data: `lifecycle` loads, swaps and unloads, `model_control` says when. All of it happens on the event loop.
"""

import asyncio
from collections.abc import Iterator, Mapping

from normserve_server.errors import FailedVersionError, InvalidRequestError, NotFoundError, UnavailableError
from normserve_server.metrics import Metrics
from normserve_server.model import Model
from normserve_server.repository_scan import MAX_DIGITS, Source
from normserve_server.version import NOT_LOADED, UNAVAILABLE, UNLOADED, Version

MAX_NAMES = 20  # of models, in an error's text
UNLOADED_STATE = "UNLOADED"  # in the metrics alone: UNAVAILABLE, as is wanted


class Repository:
    """All versions of all models.

    Args:
        metrics: where states are recorded.

    Attributes:
        searched: whether what is to serve is known.
        changes: how often a version's state has changed: what was looked up before the last change may be wrong.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._models: dict[str, Model] = {}
        self._changed = asyncio.Event()
        self.searched = False
        self.changes = 0

    @property
    def ready(self) -> bool:
        """Whether every model that is to serve has a version that does."""
        return self.searched and all(model.ready for model in self._models.values() if model.expected)

    def states(self) -> dict[str, str]:
        """Each version's state, by "model/version"."""
        return {"/".join(version.labels): version.state for version in self.versions()}

    def models(self) -> dict[str, bool]:
        """Whether a model has a version that serves, by its name."""
        return {name: model.ready for name, model in self._models.items()}

    def versions(self) -> Iterator[Version]:
        """All versions, by model and number."""
        for name in sorted(self._models):
            versions = self._models[name].versions
            yield from (versions[number] for number in sorted(versions))

    def versions_of(self, model: str) -> list[str]:
        """The numbers of a model's versions, ascending."""
        return [str(number) for number in sorted(self._models[model].versions)] if model in self._models else []

    def find(self, model: str, number: str = "") -> Version:
        """Looks a version up, whatever its state.

        Args:
            model: the model's name.
            number: the version's number; empty for the highest that serves, or where none does the highest.

        Raises:
            NotFoundError: no such model or version.
            InvalidRequestError: the number is not one.
            UnavailableError: it has only just been found, and its versions are not known yet.
        """
        known = self._models.get(model)
        if known is None:
            raise NotFoundError(f"no model '{model}'; the repository has {self._names()}")
        if number and not (number.isascii() and number.isdigit()):
            raise InvalidRequestError(f"version of model '{model}' is an integer, got '{number}'")
        if known.best is None:
            raise UnavailableError(f"model '{model}' is loading")
        if not number:
            return known.best
        version = known.versions.get(int(number)) if len(number) <= MAX_DIGITS else None
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
        if version.reason and version.loaded is None:
            raise FailedVersionError(f"{text}: {version.reason}")
        raise UnavailableError(f"{text}: {version.reason}" if version.reason else text)

    def built_in(self, model: str) -> bool:
        """Whether a name is that of a model which is part of the service."""
        known = self._models.get(model)
        return known is not None and any(version.built_in for version in known.versions.values())

    def entry(self, name: str) -> Model:
        """Gives the model of that name, a new one where there is none."""
        return self._models.setdefault(name, Model(name))

    def put(self, version: Version) -> None:
        """Lists a version, in the place of the one of its number."""
        self.entry(version.model).versions[int(version.number)] = version
        self.note()

    def drop(self, version: Version) -> None:
        """Lists a version no more, unless another has taken its place; nor its model, where that was the last of it."""
        model = self._models.get(version.model)
        if model is None:
            return
        if model.versions.get(int(version.number)) is version:
            del model.versions[int(version.number)]
            self._metrics.forget(*version.labels)
            self.note()
        self.tidy(model)

    def tidy(self, model: Model) -> None:
        """Lists a model no more of which no version is known."""
        if not model.versions and not model.held:
            if self._models.pop(model.name, None) is not None:
                self._metrics.forget_model(model.name)
            self.note()

    def relist(self, found: Mapping[str, Source]) -> None:
        """Lists what could be loaded, its highest version, and no more what was listed so and is gone."""
        for version in [version for version in self.versions() if version.reason in {NOT_LOADED, UNLOADED}]:
            source = found.get(version.model)
            if source is None or int(version.number) not in source.versions:
                self.drop(version)
        for name, source in found.items():
            if source.versions and not (name in self._models and self._models[name].versions):
                number = max(source.versions)
                self.put(Version(name, str(number), source.folder / str(number), UNAVAILABLE, NOT_LOADED))

    def change(self, version: Version, state: str, reason: str = "") -> None:
        """Sets a version's state, and why it is so."""
        version.state, version.reason = state, reason
        model = self._models.get(version.model)
        listed = model.versions.get(int(version.number)) if model else None
        if listed is not None:  # perhaps the one that has taken its place
            self._metrics.model_ready.labels(*version.labels).set(listed.ready)
            self._metrics.state(*version.labels, UNLOADED_STATE if listed.reason in {NOT_LOADED, UNLOADED} else listed.state)
        self.note()

    def note(self) -> None:
        """Notes that a state may have changed."""
        self.changes += 1
        self._changed.set()

    async def next_change(self) -> None:
        """Waits until a state has changed since this was last awaited; for one task alone."""
        await self._changed.wait()
        self._changed.clear()

    def _names(self) -> str:
        names = sorted(self._models)
        return ", ".join(names[:MAX_NAMES]) + (" ..." if len(names) > MAX_NAMES else "") if names else "none"
