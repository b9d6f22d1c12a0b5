"""READY stays true only while an inference works: versions that nobody calls are tried, again and again.

An instance that has answered since the last look needs no trial. A version with one whose trial fails serves no more, with the
reason, until all trials succeed.
"""

import asyncio

import structlog

from normserve_server.errors import ServiceError
from normserve_server.repository import Repository
from normserve_server.version import READY, UNAVAILABLE, Version

_log = structlog.get_logger(__name__)


class Canary:
    """Tries versions.

    Args:
        repository: the models.
        interval_seconds: time between two looks; 0 for none at all.
        timeout_seconds: longest time that a trial may take.
    """

    def __init__(self, repository: Repository, interval_seconds: float, timeout_seconds: float) -> None:
        self._repository = repository
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds

    async def watch(self) -> None:
        """Looks for ever; returns at once where the interval is 0."""
        while self._interval_seconds:
            await asyncio.sleep(self._interval_seconds)
            await self.look()

    async def look(self) -> None:
        """Tries each loaded version, all at a time: one that hangs holds up no other."""
        versions = [version for version in self._repository.versions() if version.loaded is not None]
        await asyncio.gather(*(self._try(version) for version in versions if version.state in {READY, UNAVAILABLE}))

    async def _try(self, version: Version) -> None:
        reason = await self._reason(version)
        if version.loaded is None or version.state not in {READY, UNAVAILABLE}:  # it was unloaded meanwhile
            return
        log = _log.bind(model=version.model, version=version.number)
        if reason and version.ready:
            log.error("canary failed", reason=reason)
            self._repository.change(version, UNAVAILABLE, reason)
        elif not reason and not version.ready:
            log.info("canary works again")
            self._repository.change(version, READY)

    async def _reason(self, version: Version) -> str:
        """Why a trial failed; empty where it worked."""
        try:
            await version.batcher.probe(self._timeout_seconds)
        except TimeoutError:
            return f"canary: no answer within {self._timeout_seconds:g} s"
        except ServiceError as error:
            return f"canary: {error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the version does not work
            return f"canary: {type(error).__name__}: {error}"
        return ""
