"""An OpenTelemetry collector: opentelemetry-proto's own TraceService behind a real gRPC server, that keeps what it is sent."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass(frozen=True)
class Span:
    """A span as it came, with its attributes and those of its process as dictionaries."""

    proto: Any
    attributes: dict[str, Any]
    process: dict[str, Any]

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def trace_id(self) -> str:
        return self.proto.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.proto.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.proto.parent_span_id.hex()

    @property
    def links(self) -> set[tuple[str, str]]:
        return {(link.trace_id.hex(), link.span_id.hex()) for link in self.proto.links}

    @property
    def times(self) -> tuple[int, int]:
        """Nanoseconds since 1970."""
        return self.proto.start_time_unix_nano, self.proto.end_time_unix_nano


@dataclass
class Collector(TraceServiceServicer):
    """What it was sent; while `open` is not set it lets exports hang."""

    spans: list[Span] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)
    endpoint: str = ""

    def Export(self, request: Any, _context: grpc.ServicerContext) -> ExportTraceServiceResponse:  # noqa: N802 - its name
        self.asked.set()
        self.open.wait(60)
        for resource in request.resource_spans:
            process = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans.extend(Span(span, _values(span.attributes), process) for span in scope.spans)
        return ExportTraceServiceResponse()

    def wait(self, wanted: Callable[[Span], bool], count: int = 1) -> list[Span]:
        """Gives the spans that are `wanted` once there are as many of them as `count`."""
        deadline = time.monotonic() + 30
        while len(found := [span for span in list(self.spans) if wanted(span)]) < count:
            assert time.monotonic() < deadline, [(span.name, span.trace_id) for span in self.spans]
            time.sleep(0.02)
        return found

    def trace(self, trace_id: str, count: int) -> dict[str, Span]:
        """Gives the spans of a trace by name, once there are so many."""
        return {span.name: span for span in self.wait(lambda span: span.trace_id == trace_id, count)}


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting(port: int = 0, *, hangs: bool = False) -> Iterator[Collector]:
    """A collector that listens, on a free port if none is given."""
    collector = Collector()
    if not hangs:
        collector.open.set()
    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield collector
    finally:
        collector.open.set()
        server.stop(None).wait()
