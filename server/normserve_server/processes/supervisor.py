"""The process over N workers: it starts them, replaces those that die, adds up what they say, and takes them down together.

It has no models and answers no inferences; onnxruntime and torch are not loaded here.
"""

import asyncio
import importlib.metadata
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import PLATFORM_COLLECTOR, CollectorRegistry, disable_created_metrics
from prometheus_client.multiprocess import mark_process_dead

from normserve_server import gpus, service_metrics
from normserve_server.descriptions import Description
from normserve_server.http.history import History
from normserve_server.http.page import Page, Sources
from normserve_server.http.sampler import Sampler
from normserve_server.http.site import Site
from normserve_server.ports import StartError, joined, reserve
from normserve_server.processes import child
from normserve_server.processes.child import Child
from normserve_server.processes.control import Control
from normserve_server.processes.exposition import Merged, Processes
from normserve_server.processes.place import Place, drain_seconds
from normserve_server.processes.slot import Slot
from normserve_server.settings import Settings
from normserve_server.state import State, ready_models, together

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger(__name__)


class Supervisor:
    """The workers of one service.

    Args:
        settings: the service's.
        folder: private and empty, for sockets and metrics.
        port: gRPC's, reserved.
    """

    def __init__(self, settings: Settings, folder: Path, port: int) -> None:
        self._settings = settings
        self._folder = folder
        self._port = port
        self._control = Control()
        self._slots = [Slot(number, self._start, self._join, self._leave) for number in range(settings.workers)]
        self._stopping = False
        self._last = State()
        disable_created_metrics()  # type: ignore[no-untyped-call] # as the workers
        registry = CollectorRegistry()
        self._restarts = service_metrics.workers(registry, lambda: len(self._open()))
        self._register(registry)
        sampler = Sampler(registry.collect, self._look, History(counted_on=True)) if settings.metrics else None
        page = Page(Sources(self._look, self._describe, sampler)) if settings.dashboard else None
        self._site = Site(registry if settings.metrics else None, self._look, page)

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> bool:
        """Serves until `stop`, then drains; at `hurry` what is left is killed.

        Returns:
            Whether each worker ended well.

        Raises:
            StartError: the HTTP port is in use, or a worker could not start at all.
        """
        host = self._settings.host
        http_port = await self._site.start(host, self._settings.http_port)
        await self._control.start(f"unix:{self._folder}/control")
        addresses = {"grpc": joined(host, self._port), "http": f"http://{joined(host, http_port)}"}
        _log.info("listening", workers=len(self._slots), **addresses)
        keeping = [asyncio.create_task(slot.keep()) for slot in self._slots]
        stopping = asyncio.create_task(stop.wait())
        tasks: list[asyncio.Task[Any]] = [*keeping, stopping]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        try:
            codes = await self._drain(keeping, hurry)
        finally:
            await self._control.stop()
            await self._site.stop()
        _log.info("stopped")
        return not any(codes)

    async def _drain(self, keeping: "list[asyncio.Task[int]]", hurry: asyncio.Event) -> list[int]:
        """Ends all workers and gives their exit codes; raises what one of them could not start for."""
        _log.info("draining", workers=len(self._open()))
        self._stopping = True
        self._end(signal.SIGTERM)
        ended: asyncio.Future[Any] = asyncio.gather(*keeping, return_exceptions=True)
        hurrying: asyncio.Future[Any] = asyncio.create_task(hurry.wait())
        longest = drain_seconds(self._settings)
        done, _ = await asyncio.wait({ended, hurrying}, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not done:
            _log.error("workers that do not end are killed", workers=sorted(self._pids()), after_seconds=longest)
        if not ended.done():
            self._end(signal.SIGKILL)
        await ended
        return [task.result() for task in keeping]

    def _end(self, number: signal.Signals) -> None:
        for slot in self._slots:
            slot.end(number)

    async def _start(self, number: int) -> Child:
        late = any(slot.served for slot in self._slots)
        started = await child.start(Place(number, self._port, self._folder, late, self._settings))
        _log.info("worker started", worker=number, pid=started.pid)
        return started

    async def _join(self, worker: Child) -> None:
        """Makes a worker one of the service: it knows what was changed by call, and takes calls.

        One that replaces another takes none before it serves what the others do; where it cannot, it is ended and replaced.
        """
        await worker.reached()
        if worker.place.late:
            await worker.loaded()
        await self._control.admit(worker)
        if worker.place.late and (missing := await self._missing(worker)):
            _log.error("worker does not serve what others serve", worker=worker.slot, missing=sorted(missing))
            worker.signal(signal.SIGTERM)
            return
        await worker.open()

    def _leave(self, worker: Child, replaced: bool) -> None:
        self._control.dismiss(worker)
        if self._settings.metrics:
            mark_process_dead(worker.slot, worker.place.metrics)  # type: ignore[no-untyped-call]
        if replaced:
            self._restarts.inc()

    async def _missing(self, worker: Child) -> set[str]:
        """The versions that all others serve and this worker does not."""
        others = [other for other in self._open().values() if other is not worker]
        return ready_models(await _together(others)) - ready_models(await _together([worker]))

    async def _look(self) -> State:
        """Asks the workers; the service is ready while all that take calls are, and none has still to take its first."""
        whole = await _together(self._open().values())
        started = all(slot.served for slot in self._slots)
        self._last = replace(whole, ready=whole.ready and started and not self._stopping)
        return self._last

    async def _describe(self) -> Sequence[Description]:
        """What a worker tells of the versions, which all have; the first that answers."""
        for worker in self._open().values():
            if (described := await worker.described()) is not None:
                return described
        return ()

    def _open(self) -> dict[int, Child]:
        """The workers that take calls, by slot."""
        children = {slot.number: slot.child for slot in self._slots}
        return {number: worker for number, worker in children.items() if worker is not None and worker.opened is not None}

    def _register(self, registry: CollectorRegistry) -> None:
        if self._settings.metrics:
            registry.register(Merged(self._folder / "metrics", lambda: self._last))
        registry.register(Processes(self._pids))
        registry.register(PLATFORM_COLLECTOR)
        service_metrics.build_info(registry, importlib.metadata.version("normserve"))
        service_metrics.in_flight(registry, lambda: self._last)
        gpus.register(registry)

    def _pids(self) -> Mapping[str, int]:
        return {str(slot.number): slot.child.pid for slot in self._slots if slot.child is not None}


async def _together(workers: Iterable[Child]) -> State:
    """The state of those workers that have not died."""
    states = await asyncio.gather(*(worker.state() for worker in workers))
    return together([state for state in states if state is not None])


async def serve(settings: Settings) -> int:
    """Serves with several workers until SIGTERM or SIGINT, then drains. A second signal ends everything at once.

    Returns:
        The exit code: 0 after a drain, 1 where a worker did not end well, 128 and the number of the second signal.

    Raises:
        StartError: the service cannot start.
    """
    if sys.platform != "linux":
        raise StartError(f"workers: more than one share a port on Linux only, this is {sys.platform}")
    stop, hurry = asyncio.Event(), asyncio.Event()
    signals = _on_signals(stop, hurry)
    with (
        reserve("gRPC", settings.host, settings.grpc_port) as reserved,
        tempfile.TemporaryDirectory(prefix="normserve-", ignore_cleanup_errors=True) as folder,
    ):
        (Path(folder) / "metrics").mkdir()
        well = await Supervisor(settings, Path(folder), reserved.getsockname()[1]).run(stop, hurry)
    if hurry.is_set():
        return 128 + signals[1]
    return 0 if well else 1


def _on_signals(stop: asyncio.Event, hurry: asyncio.Event) -> list[int]:
    """Sets `stop` at the first signal and `hurry` at the second; gives the list of those that came."""
    came: list[int] = []

    def note(number: int) -> None:
        came.append(number)
        (hurry if stop.is_set() else stop).set()

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, note, number)
    return came
