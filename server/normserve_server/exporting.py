"""Sends spans to an OpenTelemetry collector: OTLP over gRPC, from a thread of the SDK's, in small batches.

A collector that is slow, hangs or is not there costs spans and never a call: what waits is bounded, what is lost is counted.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from normserve_server.workers import Worker

MOST_WAITING = 4096  # spans
MOST_AT_ONCE = 128  # encoding holds the interpreter's lock, a few milliseconds for so many
CLOSING_SECONDS = 2.0  # for what still waits, when the service stops
GIVING_UP_SECONDS = 0.5  # for an export to notice that it is over

EXPORTED, FAILED, DROPPED = "exported", "failed", "dropped"

_log = structlog.get_logger(__name__)


class Exporter:
    """Takes spans from the event loop, and sends them from another thread.

    Args:
        endpoint: the collector, "http://host:port" or, with TLS, "https://…". OTEL_EXPORTER_OTLP_* say the rest: certificates,
            headers, compression, the timeout; and OTEL_BSP_SCHEDULE_DELAY, for how many milliseconds spans are collected.
        count: is told what has become of so many spans: `EXPORTED`, `FAILED` or `DROPPED`. It is called from both threads.
    """

    def __init__(self, endpoint: str, count: Callable[[str, int], None]) -> None:
        self._count = count
        self._given = 0
        self._words = _LastWords()
        self._otlp = OTLPSpanExporter(endpoint)
        self._sender = _Sender(self._otlp, endpoint, count, self._words)
        self._processor = BatchSpanProcessor(self._sender, MOST_WAITING, max_export_batch_size=MOST_AT_ONCE)

    def put(self, spans: Sequence[ReadableSpan]) -> None:
        """Takes the spans of one call: all of them, or none where too many wait."""
        if self._given - self._sender.done + len(spans) > MOST_WAITING:
            self._count(DROPPED, len(spans))
            return
        self._given += len(spans)
        for span in spans:
            self._processor.on_end(span)

    async def close(self) -> None:
        """Sends what waits, within `CLOSING_SECONDS`; what is left then is lost."""
        closer = Worker("exporter-close")
        with suppress(TimeoutError):
            await asyncio.wait_for(closer.call(self._processor.shutdown), CLOSING_SECONDS)
        self._otlp.shutdown()  # which ends an export that is still under way
        with suppress(TimeoutError):
            await asyncio.wait_for(closer.close(), GIVING_UP_SECONDS)


class _Sender(SpanExporter):
    """Sends, counts, and says once that it fails and once that it works again.

    Attributes:
        done: spans that are sent or lost.
    """

    def __init__(self, exporter: SpanExporter, endpoint: str, count: Callable[[str, int], None], words: "_LastWords") -> None:
        self.done = 0
        self._exporter = exporter
        self._endpoint = endpoint
        self._count = count
        self._words = words
        self._works = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            works = result is SpanExportResult.SUCCESS
            self.done += len(spans)
            self._count(EXPORTED if works else FAILED, len(spans))
            self._tell(works)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def _tell(self, works: bool) -> None:
        if works != self._works:
            self._works = works
            if works:
                _log.info("spans are exported again", endpoint=self._endpoint)
            else:
                _log.warning("spans cannot be exported", endpoint=self._endpoint, reason=self._words.text)


class _LastWords(logging.Handler):
    """Keeps what OpenTelemetry said last, instead of having it written between our lines, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
