"""Metrics of the service as a whole, asked for whenever somebody reads them: in its one process, or in the supervisor."""

import importlib.metadata
import platform
from collections.abc import Callable
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from normserve_server.state import State


def build_info(registry: CollectorRegistry, version: str) -> None:
    """Registers what is running: normserve's version, Python's and onnxruntime's."""
    Info("normserve_build", "What is running.", registry=registry).info(
        {"version": version, "python": platform.python_version(), "onnxruntime": _onnxruntime()}
    )


def in_flight(registry: CollectorRegistry, state: Callable[[], State]) -> None:
    """Registers what is in flight, as `state` has it whenever somebody asks."""
    calls = Gauge("normserve_requests_in_flight", "Requests admitted and not yet answered.", registry=registry)
    calls.set_function(lambda: state().calls)
    size = Gauge(
        "normserve_admitted_bytes",
        "Size of the request messages admitted and not yet answered, and of the answers not yet taken.",
        registry=registry,
    )
    size.set_function(lambda: state().size)


def workers(registry: CollectorRegistry, count: Callable[[], int]) -> Counter:
    """Registers how many processes take calls, as `count` has it whenever somebody asks.

    Returns:
        Where those that died and were replaced are counted.
    """
    Gauge("normserve_workers", "Processes that take calls.", registry=registry).set_function(count)
    return Counter("normserve_worker_restarts", "Workers that died and were replaced.", registry=registry)


def _onnxruntime() -> str:
    """Its version, without its import, which takes a second."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return ""
