"""Versions on their way out: each takes nothing more, finishes what it accepted, and gives its memory and its files back."""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from normserve_server import load_request, memory
from normserve_server.background import Background
from normserve_server.repository import Repository
from normserve_server.version import UNAVAILABLE, UNLOADED, UNLOADING, Version

_log = structlog.get_logger(__name__)


class Departures:
    """Takes versions out of service, each in its own time.

    Args:
        repository: where they are listed.
        settle: records the calls that have been answered.
        give_back: has devices return what has been freed.
    """

    def __init__(self, repository: Repository, settle: Callable[[], None], give_back: Callable[[], None]) -> None:
        self._repository = repository
        self._settle = settle
        self._give_back = give_back
        self._background = Background()
        self._ends: dict[Version, asyncio.Task[None]] = {}

    def begin(self, version: Version, *, keep: bool) -> asyncio.Task[None]:
        """Takes a version out of service now, and begins to end it; where that has begun already, it goes on.

        Args:
            version: loaded or not.
            keep: goes on listing it, as unloaded, unless its files go with it.
        """
        if version not in self._ends:
            if version.loaded is not None:
                self._repository.change(version, UNLOADING)
            self._ends[version] = self._background.spawn(self._end(version, keep))
            self._ends[version].add_done_callback(lambda _: self._ends.pop(version))
        return self._ends[version]

    async def end(self, versions: Iterable[Version], *, keep: bool) -> None:
        """Takes versions out of service and waits for their end, which comes although the waiting is cancelled."""
        if ends := {self.begin(version, keep=keep) for version in list(versions)}:
            await asyncio.wait(ends)

    async def finish(self) -> None:
        """Waits for all that are on their way."""
        await self._background.finish()

    async def _end(self, version: Version, keep: bool) -> None:
        if version.loaded is not None:
            await version.batcher.close()
            await asyncio.to_thread(memory.give_back, [version.release()])
            await asyncio.to_thread(self._give_back)
            _log.info("model unloaded", model=version.model, version=version.number)
        if version.temporary:
            await asyncio.to_thread(load_request.discard, version.folder)
        if keep and not version.temporary:
            self._repository.change(version, UNAVAILABLE, UNLOADED)
        else:
            self._settle()  # or its last calls would begin its series again
            self._repository.drop(version)
