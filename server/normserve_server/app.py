"""Puts the service together, runs it, and takes it down without losing a call. The only file that knows every other.

Stopping, in order: health says NOT_SERVING; new calls are refused with UNAVAILABLE while what was accepted is finished; gRPC
closes; models are unloaded; HTTP, which Prometheus may still be reading, goes last. gRPC is not closed first, because it would
answer the calls that it has read but not handed over with CANCELLED, which no client tries again.

As one of several workers (see `processes`) it shares the gRPC port and has a private socket for the supervisor instead of HTTP.
"""

import asyncio
import contextlib
import gc
import importlib.metadata
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial

import grpc
import structlog
from prometheus_client import CollectorRegistry

from normserve_server import devices, direct_calls, loop_lag, memory, operators, preparation, transport
from normserve_server.accelerators.interface import Accelerator
from normserve_server.admission import Admission
from normserve_server.background import Background
from normserve_server.built_in.models import BuiltInModels
from normserve_server.canary import Canary
from normserve_server.descriptions import Descriptions
from normserve_server.devices import DeviceError
from normserve_server.direct_calls import DirectCalls
from normserve_server.errors import CODES, LoadError, StateError
from normserve_server.health import Health
from normserve_server.inference import InferenceServicer
from normserve_server.interceptors import Door
from normserve_server.introspection import IntrospectionServicer
from normserve_server.lifecycle import Lifecycle
from normserve_server.loading import CONCURRENT_LOADS, Loader
from normserve_server.logs import Levels
from normserve_server.metrics import Metrics
from normserve_server.model_control import ModelControl
from normserve_server.normalization import NormalizationServicer
from normserve_server.normalizers.database import Database
from normserve_server.normalizers.servicer import NormalizerServicer
from normserve_server.normalizers.store import Store
from normserve_server.ports import StartError, joined
from normserve_server.processes.place import Place
from normserve_server.processes.private import Private
from normserve_server.queue_metrics import QueueMetrics
from normserve_server.recording import Recorder
from normserve_server.regions import Regions
from normserve_server.repository import Repository
from normserve_server.repository_control import RepositoryControlServicer
from normserve_server.runtime_settings import RuntimeSettingsServicer
from normserve_server.settings import ALL_MODELS, Settings, default_state
from normserve_server.shared_memory_service import SharedMemoryServicer
from normserve_server.side import Alone, Side
from normserve_server.state import State
from normserve_server.stream_inference import StreamInferenceServicer
from normserve_server.telemetry import Telemetry
from normserve_server.tracing import Traces
from normserve_server.transport import INFERENCE, NORMALIZATION, NORMALIZERS
from normserve_server.workers import Worker

QUIET_SECONDS = 0.1  # without a new call, after which callers are taken to have heard that the server drains
UNLOAD_SECONDS = 5.0  # for models to go; a run may never end
LAST_CALLS_SECONDS = 1.0  # for answers that are on their way out, and for health watchers, who never leave by themselves

EXTENSIONS = (  # by Triton's names
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
    "trace",
    "logging",
)

_log = structlog.get_logger(__name__)


class App:
    """The service.

    Args:
        settings: all of its settings.
        levels: what is logged, which callers may change.
        place: where it stands among several workers; None where it is alone.

    Raises:
        StartError: the device or the repository is not there.
    """

    def __init__(self, settings: Settings, levels: Levels, place: Place | None = None) -> None:
        _check_repository(settings)
        memory.keep_freed()
        version = importlib.metadata.version("normserve")
        self._settings = settings
        self._levels = levels
        self._admission = Admission(settings.max_admitted_bytes)
        self._metrics = Metrics(CollectorRegistry(), recording=settings.metrics)
        self._side: Side = Private(place) if place else Alone(settings, self._metrics.registry, version)
        loader = Loader(settings, _device(settings), self._metrics, preparation.engine(), asyncio.Semaphore(CONCURRENT_LOADS))
        self._repository = Repository(self._metrics)
        self._queues = QueueMetrics(self._repository, self._metrics)
        self._telemetry = Telemetry(settings.otlp_endpoint, self._metrics, version, None if place is None else place.slot)
        self._traces = Traces(self._telemetry.spans, settings.trace_rate)
        self._recorder = Recorder(self._metrics, self._traces, access_log=settings.access_log)
        lifecycle = Lifecycle(self._repository, loader, self._metrics, self._recorder.flush)
        self._control = ModelControl(settings, self._repository, lifecycle)
        self._canary = Canary(self._repository, settings.canary_interval_seconds, settings.canary_timeout_seconds)
        self._background = Background()
        self._health = Health(self._repository)
        self._normalizer = Worker("normalization")
        self._place = operators.Place(_accelerator(loader), self._metrics.operator_fallbacks.inc)
        self._keeper = Worker("normalizers")
        database = Database(settings.state or default_state())
        self._store = Store(database, self._keeper, self._metrics, settings.max_queue_size)
        self._built_in = (
            BuiltInModels(self._repository, self._metrics, self._normalizer, settings.max_queue_size, self._place)
            if settings.built_in_models
            else None
        )
        self._grpc, self._direct = self._grpc_server(version)
        self._open = False

    async def start(self) -> None:
        """Listens, then loads every model; meanwhile the service is live and not ready. A late worker loads before it listens.

        Raises:
            StartError: a port is in use, the address is not this machine's, or the state's place cannot be used.
        """
        await self._open_state()
        late = self._side.late
        port = 0 if late else self._listen()
        addresses = await self._side.start(self._state, Descriptions(self._repository))
        if self._settings.metrics:
            self._background.spawn(loop_lag.watch(self._metrics.loop_lag_seconds))
        await self._health.publish()
        self._background.spawn(self._health.follow())
        if not late:
            await self._accept(port, addresses)
        await asyncio.gather(self._control.start(), self._warm_up())
        _settle_memory()
        self._open = True
        (_log.info if self._repository.ready else _log.error)("ready" if self._repository.ready else "not every model serves")
        self._background.spawn(self._control.watch())
        self._background.spawn(self._canary.watch())
        await self._side.loaded()
        if late:
            await self._accept(self._listen(), addresses)

    async def drain(self) -> bool:
        """Takes the service down; every call that was accepted is answered, unless its run does not end.

        Returns:
            Whether all runs have ended.
        """
        _log.info("draining", in_flight=self._admission.calls)
        self._open = False
        await self._background.close()
        await self._health.drain()
        await asyncio.sleep(self._settings.drain_delay_seconds)
        try:
            await asyncio.wait_for(self._admission.drain(), self._settings.drain_timeout_seconds)
        except TimeoutError:
            _log.warning("drain timed out", in_flight=self._admission.calls)
        with contextlib.suppress(TimeoutError):  # some never stop calling
            await asyncio.wait_for(self._admission.quiet(QUIET_SECONDS), LAST_CALLS_SECONDS)
        await self._grpc.stop(LAST_CALLS_SECONDS)
        if self._direct is not None:
            await self._direct.stop()
        ended = True
        self._recorder.flush()
        closing = asyncio.create_task(self._telemetry.close())
        try:
            await asyncio.wait_for(self._unload(), UNLOAD_SECONDS)
        except TimeoutError:
            ended = False
            _log.error("a run that does not end is left behind")
        self._recorder.flush()
        await closing
        await self._side.stop()
        _log.info("stopped")
        return ended

    async def _open_state(self) -> None:
        """Only where the setting names it: the default's file is made when a normalizer is first asked for."""
        if self._settings.state is None:
            return
        try:
            await self._store.open()
        except StateError as error:
            raise StartError(str(error)) from None

    async def _warm_up(self) -> None:
        threads = operators.use_one_thread()
        await self._keeper.call(operators.use_one_thread)
        await self._normalizer.call(partial(operators.warm_up, threads, self._place))
        if self._built_in is not None:
            await self._built_in.start()

    async def _unload(self) -> None:
        await asyncio.gather(self._control.close(), self._store.close())
        await self._normalizer.close()  # after the models, of which some run on its thread

    def _grpc_server(self, version: str) -> tuple[grpc.aio.Server, DirectCalls | None]:
        follows = self._settings.access_log or self._telemetry.spans is not None
        codes = CODES[self._settings.error_codes]
        door = Door(self._admission, self._recorder, codes, self._side.fan_out, follows=follows)
        regions = Regions(allowed=self._settings.allow_shared_memory)
        extensions = (*EXTENSIONS, *(["system_shared_memory"] if self._settings.allow_shared_memory else []))
        inference = InferenceServicer(self._repository, version, extensions, regions)
        streams = StreamInferenceServicer(inference)
        introspection = IntrospectionServicer(self._repository, self._recorder.flush)
        runtime_settings = RuntimeSettingsServicer(self._repository, self._levels, self._traces, self._recorder.flush)
        control = RepositoryControlServicer(self._repository, self._control)
        servicers = [inference, streams, introspection, runtime_settings, control, SharedMemoryServicer(regions)]
        normalization = NormalizationServicer(self._normalizer, self._settings.max_queue_size, self._place)
        handlers = (
            door.service(INFERENCE, servicers, {**inference.codecs, **streams.codecs}),
            door.service(NORMALIZATION, [normalization], normalization.codecs),
            door.service(NORMALIZERS, [self._normalizers()], NormalizerServicer.codecs),
        )
        options = transport.options(self._settings.keepalive_seconds, shares_port=self._side.shares_port)
        server = transport.server(options, handlers, self._health.servicer)
        return server, direct_calls.of(server, door.answers) if self._settings.direct_calls else None

    def _normalizers(self) -> NormalizerServicer:
        return NormalizerServicer(self._store, self._normalizer, self._metrics, self._settings.max_queue_size)

    def _state(self) -> State:
        self._recorder.flush()
        self._queues.sample()
        ready = self._open and self._repository.ready
        calls, size = self._admission.calls, self._admission.bytes
        return State(ready, self._repository.states(), calls, size, list(self._metrics.exemplars.all()))

    def _listen(self) -> int:
        host, port = self._settings.host, self._side.grpc_port()
        try:
            return self._grpc.add_insecure_port(joined(host, port))
        except RuntimeError as error:
            raise StartError(f"gRPC port {port} on {host}: {error}") from None

    async def _accept(self, port: int, addresses: Mapping[str, str]) -> None:
        await self._grpc.start()
        if self._direct is not None:
            self._direct.start()
        _log.info("listening", grpc=joined(self._settings.host, port), **addresses)


async def serve(settings: Settings, levels: Levels, place: Place | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    A second signal ends the process at once, unless it has a `place`: then it is the supervisor's to end, and may get the first
    from the supervisor and the second from whoever ends everything on the machine.

    Args:
        settings: all of them.
        levels: what is logged.
        place: where the process stands among several workers; None where it is alone.

    Raises:
        StartError: the service cannot start.
    """
    stop = asyncio.Event()
    app = App(settings, levels, place)
    _on_signals(stop.set, once=place is None)
    starting = asyncio.create_task(app.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    elif starting.exception() is not None:
        stopping.cancel()
        await starting
    await stopping
    if not await app.drain():
        os._exit(1)  # the interpreter's own end would be aborted by the thread that still runs


def _on_signals(stop: Callable[[], None], *, once: bool) -> None:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def came() -> None:
        for number in signals if once else ():
            loop.remove_signal_handler(number)
        stop()

    for number in signals:
        loop.add_signal_handler(number, came)


def _settle_memory() -> None:
    """Takes what has been loaded out of the garbage collector's sight.

    It would walk half a million objects, most of them torch's, again and again while calls wait: a quarter of the loop's time.
    """
    gc.collect()
    gc.freeze()


def _device(settings: Settings) -> devices.Device:
    try:
        return devices.choose(settings.device)
    except DeviceError as error:
        raise StartError(str(error)) from None


def _accelerator(loader: Loader) -> Accelerator | None:
    """What operators run on, if not on the host."""
    try:
        return loader.accelerators.of(loader.device)
    except LoadError as error:
        _log.warning("operators run on the CPU", reason=str(error))
        return None


def _check_repository(settings: Settings) -> None:
    for folder in settings.repository:
        if not folder.is_dir():
            raise StartError(f"repository: there is no folder {folder}")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise StartError(f"repository: {folder} cannot be read")
    for name in set(settings.load_model) - {ALL_MODELS}:
        if not any((folder / name).is_dir() for folder in settings.repository):
            raise StartError(f"load_model: there is no model '{name}' in {', '.join(map(str, settings.repository))}")
