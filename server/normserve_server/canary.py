"""READY stays true only while an inference works: versions that nobody calls are tried, again and again.

A version that has answered a request since the last look needs no trial. One whose trial fails serves no more, with the reason,
until a trial succeeds.
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
        self._seen: dict[Version, int] = {}

    async def watch(self) -> None:
        """Looks for ever; returns at once where the interval is 0."""
        while self._interval_seconds:
            await asyncio.sleep(self._interval_seconds)
            await self.look()

    async def look(self) -> None:
        """Tries each loaded version that has answered no request since the last look, one after another."""
        before, self._seen = self._seen, {}
        for version in list(self._repository.versions()):
            if version.loaded is None or version.state not in {READY, UNAVAILABLE}:
                continue
            answered = version.loaded.statistics.success.count
            if version.state == UNAVAILABLE or before.get(version) == answered:
                await self._try(version)
            self._seen[version] = answered

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
