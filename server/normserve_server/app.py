"""Puts the service together, runs it, and takes it down without losing a call. The only file that knows every other.

Stopping, in order: health says NOT_SERVING; new calls are refused with UNAVAILABLE while what was accepted is finished; gRPC
closes; models are unloaded; HTTP, which Prometheus may still be reading, goes last. gRPC is not closed first, because it would
answer the calls that it has read but not handed over with CANCELLED, which no client tries again.
"""

import asyncio
import contextlib
import gc
import importlib.metadata
import os
import signal
import socket
from collections.abc import Callable

import grpc
import structlog
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from normserve_proto import normalization_pb2, open_inference_pb2
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry

from normserve_server import devices, operators, preparation
from normserve_server.admission import Admission
from normserve_server.background import Background
from normserve_server.canary import Canary
from normserve_server.devices import DeviceError
from normserve_server.errors import CODES
from normserve_server.health import Health
from normserve_server.http.site import Site
from normserve_server.inference import InferenceServicer
from normserve_server.interceptors import Door
from normserve_server.introspection import IntrospectionServicer
from normserve_server.lifecycle import Lifecycle
from normserve_server.loading import CONCURRENT_LOADS, Loader
from normserve_server.logs import Levels
from normserve_server.metrics import Metrics
from normserve_server.model_control import ModelControl
from normserve_server.normalization import NormalizationServicer
from normserve_server.repository import Repository
from normserve_server.repository_control import RepositoryControlServicer
from normserve_server.runtime_settings import RuntimeSettingsServicer
from normserve_server.settings import ALL_MODELS, Settings
from normserve_server.stream_inference import StreamInferenceServicer
from normserve_server.tracing import Traces
from normserve_server.workers import Worker

INFERENCE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
NORMALIZATION = normalization_pb2.DESCRIPTOR.services_by_name["NormalizationService"]
INT32_MAX = 2**31 - 1
QUIET_SECONDS = 0.1  # without a new call, after which callers are taken to have heard that the server drains
LAST_CALLS_SECONDS = 1.0  # for answers that are on their way out, and for health watchers, who never leave by themselves

EXTENSIONS = ("model_configuration", "model_repository", "parameters", "statistics", "trace", "logging")  # by Triton's names

OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # Admission limits what is taken on
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # or a second server would silently share the port
    # Admission refuses what is too much, and says when to come back; gRPC itself would cancel calls, which nobody tries again.
    ("grpc.server.max_pending_requests", INT32_MAX),
    ("grpc.server.max_pending_requests_hard_limit", INT32_MAX),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),  # gRPC's 5 minutes end connections of callers that ask more often
)

_log = structlog.get_logger(__name__)


class StartError(Exception):
    """The service cannot start; the text says why."""


class App:
    """The service.

    Args:
        settings: all of its settings.
        levels: what is logged, which callers may change.

    Raises:
        StartError: the device or the repository is not there.
    """

    def __init__(self, settings: Settings, levels: Levels) -> None:
        _check_repository(settings)
        version = importlib.metadata.version("normserve")
        self._settings = settings
        self._levels = levels
        self._admission = Admission(settings.max_admitted_bytes)
        self._metrics = Metrics(_registry(), version)
        self._metrics.in_flight.set_function(lambda: self._admission.calls)
        self._metrics.in_flight_bytes.set_function(lambda: self._admission.bytes)
        loader = Loader(settings, _device(settings), self._metrics, preparation.engine(), asyncio.Semaphore(CONCURRENT_LOADS))
        self._repository = Repository(self._metrics)
        self._control = ModelControl(settings, self._repository, Lifecycle(self._repository, loader, self._metrics))
        self._canary = Canary(self._repository, settings.canary_interval_seconds, settings.canary_timeout_seconds)
        self._background = Background()
        self._health = Health(self._repository)
        self._normalizer = Worker("normalization")
        self._grpc = self._grpc_server(version)
        self._http = Site(self._metrics.registry, self._repository.states, lambda: self._open and self._repository.ready)
        self._open = False

    async def start(self) -> None:
        """Listens, then loads every model; meanwhile the service is live and not ready.

        Raises:
            StartError: a port is in use, or the address is not this machine's.
        """
        grpc_port = self._listen()
        http_port = await self._listen_http()
        await self._health.publish()
        self._background.spawn(self._health.follow())
        await self._grpc.start()
        host = self._settings.host
        _log.info("listening", grpc=_joined(host, grpc_port), http=f"http://{_joined(host, http_port)}")
        await asyncio.gather(self._control.start(), self._normalizer.call(operators.warm_up))
        _settle_memory()
        self._open = True
        (_log.info if self._repository.ready else _log.error)("ready" if self._repository.ready else "not every model serves")
        self._background.spawn(self._control.watch())
        self._background.spawn(self._canary.watch())

    async def drain(self) -> None:
        """Takes the service down; every call that was accepted is answered."""
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
        await self._control.close()
        await self._normalizer.close()
        await self._http.stop()
        _log.info("stopped")

    def _grpc_server(self, version: str) -> grpc.aio.Server:
        server = grpc.aio.server(options=(*OPTIONS, *_keepalive(self._settings.keepalive_seconds)))
        traces = Traces()
        door = Door(self._metrics, self._admission, traces, CODES[self._settings.error_codes])
        inference = InferenceServicer(self._repository, version, EXTENSIONS)
        streams = StreamInferenceServicer(inference)
        introspection = IntrospectionServicer(self._repository)
        runtime_settings = RuntimeSettingsServicer(self._repository, self._levels, traces)
        control = RepositoryControlServicer(self._repository, self._control)
        servicers = [inference, streams, introspection, runtime_settings, control]
        handlers = (
            door.service(INFERENCE, servicers, {**inference.codecs, **streams.codecs}),
            door.service(NORMALIZATION, [NormalizationServicer(self._normalizer, self._settings.max_queue_size)]),
        )
        server.add_generic_rpc_handlers(handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        names = [INFERENCE.full_name, NORMALIZATION.full_name, "grpc.health.v1.Health", reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server, pool=_reflected())
        return server

    def _listen(self) -> int:
        address = (self._settings.host, self._settings.grpc_port)
        _check_free("gRPC", *address)
        try:
            return self._grpc.add_insecure_port(_joined(*address))
        except RuntimeError as error:
            raise StartError(f"gRPC port {address[1]} on {address[0]}: {error}") from None

    async def _listen_http(self) -> int:
        address = (self._settings.host, self._settings.http_port)
        _check_free("HTTP", *address)
        return await self._http.start(*address)


async def serve(settings: Settings, levels: Levels) -> None:
    """Serves until SIGTERM or SIGINT, then drains. A second signal ends the process at once.

    Args:
        settings: all of them.
        levels: what is logged.

    Raises:
        StartError: the service cannot start.
    """
    stop = asyncio.Event()
    app = App(settings, levels)
    _on_signals(stop.set)
    starting = asyncio.create_task(app.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    elif starting.exception() is not None:
        stopping.cancel()
        await starting
    await stopping
    await app.drain()


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def once() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        stop()

    for number in signals:
        loop.add_signal_handler(number, once)


def _settle_memory() -> None:
    """Takes what has been loaded out of the garbage collector's sight.

    It would walk half a million objects, most of them torch's, again and again while calls wait: a quarter of the loop's time.
    """
    gc.collect()
    gc.freeze()


def _keepalive(seconds: float) -> tuple[tuple[str, int], ...]:
    """Asks a silent peer whether it is there, and takes it for gone when it is silent for as long again.

    The calls of a peer that vanished, and what they hold, would else stay until the operating system notices, in hours.
    """
    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    return tuple((name, round(seconds * 1000)) for name in names)


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    return registry


def _device(settings: Settings) -> devices.Device:
    try:
        return devices.choose(settings.device)
    except DeviceError as error:
        raise StartError(str(error)) from None


def _check_repository(settings: Settings) -> None:
    for folder in settings.repository:
        if not folder.is_dir():
            raise StartError(f"repository: there is no folder {folder}")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise StartError(f"repository: {folder} cannot be read")
    for name in set(settings.load_model) - {ALL_MODELS}:
        if not any((folder / name).is_dir() for folder in settings.repository):
            raise StartError(f"load_model: there is no model '{name}' in {', '.join(map(str, settings.repository))}")


def _check_free(name: str, host: str, port: int) -> None:
    """Asks the system before gRPC does, whose own answer is three lines of log and a trace."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise StartError(f"{name} port {port} on {host}: {_system_words(error)}") from None


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _system_words(error: OSError) -> str:
    """What the system says; Python adds the address to it, which is there already. Resolvers have negative numbers."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


def _reflected() -> descriptor_pool.DescriptorPool:
    """All services in one pool: ours live in a pool of their own, and reflection reads from one."""
    pool = descriptor_pool.DescriptorPool()
    for module in (open_inference_pb2, normalization_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool
