"""OpenTelemetry, where the settings name a collector. It is imported here, and nowhere where they do not."""

from typing import TYPE_CHECKING

from normserve_server import transport
from normserve_server.metrics import Metrics
from normserve_server.ports import StartError

if TYPE_CHECKING:
    from normserve_server.exporting import Exporter
    from normserve_server.spans import Spans


class Telemetry:
    """What makes spans, and what sends them.

    Args:
        endpoint: of the collector; None for none.
        metrics: where it is counted what becomes of spans.
        version: the service's.
        worker: this process's number among several; None where it is alone.

    Attributes:
        spans: makes them; None without a collector.

    Raises:
        StartError: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str | None, metrics: Metrics, version: str, worker: int | None) -> None:
        self.spans: Spans | None = None
        self._exporter: Exporter | None = None
        if endpoint is None:
            return
        try:
            from normserve_server import exporting, spans  # noqa: PLC0415 - they take time, and need an extra
        except ImportError as error:
            raise StartError(f"otlp_endpoint: {error}; install normserve's extra 'tracing'") from None
        self._exporter = exporting.Exporter(endpoint, lambda outcome, count: metrics.spans.labels(outcome).inc(count))
        attributes = {} if worker is None else {"normserve.worker": worker}
        self.spans = spans.Spans(self._exporter.put, transport.full_names(), version, attributes)

    async def close(self) -> None:
        """Sends what waits, for a short time."""
        if self._exporter is not None:
            await self._exporter.close()
