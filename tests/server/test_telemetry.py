import subprocess
import sys

import normserve_server
import pytest
from normserve_server.metrics import Metrics
from normserve_server.ports import StartError
from normserve_server.telemetry import Telemetry
from prometheus_client import CollectorRegistry


def test_without_a_collector_there_is_nothing_to_close_and_nothing_is_imported() -> None:
    code = """
import asyncio, sys
from normserve_server.metrics import Metrics
from normserve_server.telemetry import Telemetry
from prometheus_client import CollectorRegistry
telemetry = Telemetry(None, Metrics(CollectorRegistry()), "1", None)
asyncio.run(telemetry.close())
print(telemetry.spans, [name for name in sys.modules if name.startswith("opentelemetry")])
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "None []\n"


def test_without_its_packages_the_service_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "normserve_server.exporting", raising=False)
    monkeypatch.delattr(normserve_server, "exporting", raising=False)  # where an import finds it that was made before
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(StartError, match=r"^otlp_endpoint: .*opentelemetry.*; install normserve's extra 'tracing'$"):
        Telemetry("http://127.0.0.1:1", Metrics(CollectorRegistry()), "1", None)


@pytest.mark.parametrize("recording", [True, False])
async def test_it_works_whether_metrics_are_recorded_or_not(*, recording: bool) -> None:
    telemetry = Telemetry("http://127.0.0.1:1", Metrics(CollectorRegistry(), recording=recording), "1", 2)
    assert telemetry.spans is not None
    telemetry._exporter._count("dropped", 3)
    await telemetry.close()
