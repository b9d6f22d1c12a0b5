"""Spans of a real server's calls, as a collector receives them; and the access log, which names the same traces."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from collector import Collector, Span, collecting
from normserve import AsyncClient, Client
from normserve.testing import RunningServer, free_port, running_server
from normserve_proto import normalization_pb2, open_inference_pb2
from normserve_proto.normalization_pb2_grpc import NormalizationServiceStub
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.parser import text_string_to_metric_families
from workers_load import CHANNEL, get

INFER, STREAM = "inference.GRPCInferenceService/ModelInfer", "inference.GRPCInferenceService/ModelStreamInfer"
NORMALIZE = "normserve.v1.NormalizationService/Normalize"
WIDTH, TOGETHER = 256, 4
PHASES = ["decode", "queue", "compute", "encode"]
ERROR = 2
CONNECTIONS = 40


class Caller:
    """A span of a caller's, and the metadata that tells of it."""

    def __init__(self, *, sampled: bool = True) -> None:
        self.trace_id, self.span_id = secrets.token_hex(16), secrets.token_hex(8)
        self.metadata = (
            ("traceparent", f"00-{self.trace_id}-{self.span_id}-{'01' if sampled else '00'}"),
            ("tracestate", "vendor=a1,other=b2"),
        )


def request(model: str = "alone", request_id: str = "", width: int = WIDTH) -> open_inference_pb2.ModelInferRequest:
    message = open_inference_pb2.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[bytes(4 * width)])
    message.inputs.add(name="x", datatype="FP32", shape=(1, width))
    return message


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def repository(publish: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`alone`, and `together`, of which as many requests as fill a batch run together, and no fewer."""
    folder = tmp_path_factory.mktemp("traced")
    for model in ("alone", "together"):
        (folder / model).mkdir()
        publish(folder / model / "1", 1.0)
    text = f"max_batch_size: {TOGETHER} dynamic_batching {{ max_queue_delay_microseconds: 60000000 }}"
    (folder / "together" / "config.pbtxt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def server(collector: Collector, repository: Path) -> Iterator[RunningServer]:
    arguments = ("--no-fold", "--access-log", "--log-format", "json", "--otlp-endpoint", collector.endpoint)
    with running_server(repository, arguments=arguments) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address, [("grpc.enable_retries", 0)]) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


def settings(stub: GRPCInferenceServiceStub, model: str = "", **values: str) -> None:
    message = open_inference_pb2.TraceSettingRequest(model_name=model)
    for name, value in values.items():
        message.settings[name].value.extend([value] if value else [])
    stub.TraceSetting(message)


def lines(server: RunningServer, event: str, **fields: Any) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in server.log.splitlines()]
    return [line for line in found if line["event"] == event and fields.items() <= line.items()]


def within(inner: Span, outer: Span) -> bool:
    return outer.times[0] <= inner.times[0] <= inner.times[1] <= outer.times[1]


def test_a_traced_callers_call_has_a_span_with_its_phases(collector: Collector, stub: GRPCInferenceServiceStub) -> None:
    caller = Caller()
    stub.ModelInfer(request(request_id="seven"), metadata=caller.metadata)
    spans = collector.trace(caller.trace_id, 5)
    whole = spans.pop(INFER)
    assert (whole.parent_id, whole.proto.kind, whole.proto.trace_state) == (caller.span_id, 2, "vendor=a1,other=b2")
    assert whole.proto.flags & 0x300 == 0x300  # the parent is known to be remote
    peer = whole.attributes.pop("network.peer.port")
    assert 0 < peer < 2**16
    assert whole.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": INFER,
        "rpc.response.status_code": "OK",
        "network.peer.address": "127.0.0.1",
        "normserve.request.id": "seven",
        "normserve.model.name": "alone",
        "normserve.model.version": "1",
        "normserve.batch.size": 1,
    }
    assert whole.process.items() >= {"service.name": "normserve", "telemetry.sdk.language": "python"}.items()
    assert list(spans) == PHASES
    assert {span.parent_id for span in spans.values()} == {whole.span_id}
    assert all(within(span, whole) for span in spans.values())
    assert [span.times[0] for span in spans.values()] == [whole.times[0], *[span.times[1] for span in spans.values()][:-1]]
    assert spans["encode"].times[1] == whole.times[1]
    assert spans["compute"].attributes == {"normserve.batch.size": 1}
    assert not any(span.links for span in spans.values())


def test_a_batch_and_its_requests_are_linked(collector: Collector, stub: GRPCInferenceServiceStub) -> None:
    callers = [Caller() for _ in range(TOGETHER - 1)]
    calls = [stub.ModelInfer.future(request("together"), metadata=caller.metadata) for caller in callers]
    calls.append(stub.ModelInfer.future(request("together"), metadata=Caller(sampled=False).metadata))
    assert all(call.result() for call in calls)
    traces = [collector.trace(caller.trace_id, 5) for caller in callers]
    (batch,) = collector.wait(lambda span: span.name == "batch")
    assert batch.links == {(trace[INFER].trace_id, trace[INFER].span_id) for trace in traces}
    assert batch.attributes == {
        "normserve.model.name": "together",
        "normserve.model.version": "1",
        "normserve.batch.size": TOGETHER,
        "normserve.batch.requests": TOGETHER,
    }
    assert (batch.parent_id, batch.trace_id in {caller.trace_id for caller in callers}) == ("", False)
    for trace in traces:
        assert trace["compute"].links == {(batch.trace_id, batch.span_id)}
        assert within(batch, trace["compute"])
        assert trace["compute"].attributes == {"normserve.batch.size": TOGETHER}


def test_failed_calls_and_other_methods_are_traced_where_their_callers_are(
    collector: Collector, stub: GRPCInferenceServiceStub, channel: grpc.Channel
) -> None:
    wrong, unknown, normalized, streamed = (Caller() for _ in range(4))
    for caller, message in ((wrong, request(width=3)), (unknown, request("absent"))):
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(message, metadata=caller.metadata)
    tensor = normalization_pb2.Tensor(datatype="FP32", shape=[2], data=np.ones(2, np.float32).tobytes())
    layer = normalization_pb2.LayerNorm(normalized_shape=[2])
    normalize = normalization_pb2.NormalizeRequest(input=tensor, layer_norm=layer)
    NormalizationServiceStub(channel).Normalize(normalize, metadata=normalized.metadata)
    assert len(list(stub.ModelStreamInfer(iter([request(), request()]), metadata=streamed.metadata))) == 2
    span = collector.trace(wrong.trace_id, 1)[INFER]
    assert (span.attributes["rpc.response.status_code"], span.attributes["normserve.model.name"]) == (
        "INVALID_ARGUMENT",
        "alone",
    )
    assert span.proto.status.code != ERROR  # by the conventions it is the caller's
    span = collector.trace(unknown.trace_id, 1)[INFER]
    assert (span.attributes["rpc.response.status_code"], "normserve.model.name" in span.attributes) == ("NOT_FOUND", False)
    assert list(collector.trace(normalized.trace_id, 4)) == [NORMALIZE, "decode", "compute", "encode"]
    spans = collector.wait(lambda span: span.trace_id == streamed.trace_id, 10)
    assert [span.parent_id for span in spans if span.name == STREAM] == [streamed.span_id] * 2


def test_sampling_follows_trace_setting_and_the_callers(collector: Collector, stub: GRPCInferenceServiceStub) -> None:
    def roots() -> list[Span]:
        stub.ModelInfer(request(), metadata=(fence := Caller()).metadata)
        collector.trace(fence.trace_id, 5)
        return [span for span in collector.spans if span.name == INFER and not span.parent_id]

    stub.ModelInfer(request())  # of which one in 1000 is traced
    before = len(roots())
    settings(stub, trace_rate="2")
    for _ in range(8):
        stub.ModelInfer(request())
        stub.ModelInfer(request(), metadata=Caller(sampled=False).metadata)
    assert len(roots()) == before + 4
    settings(stub, trace_rate="1", trace_count="3")
    for _ in range(8):
        stub.ModelInfer(request())
    assert len(roots()) == before + 7  # and the callers' go on
    off = Caller()
    settings(stub, "alone", trace_level="OFF")
    stub.ModelInfer(request(), metadata=off.metadata)
    settings(stub, "alone", trace_level="")
    settings(stub, trace_rate="", trace_count="")
    assert len(roots()) == before + 7
    assert not [span for span in collector.spans if span.trace_id == off.trace_id]
    told = stub.TraceSetting(open_inference_pb2.TraceSettingRequest()).settings
    assert {name: list(told[name].value) for name in ("trace_mode", "trace_level", "trace_rate")} == {
        "trace_mode": ["opentelemetry"],
        "trace_level": ["TIMESTAMPS"],
        "trace_rate": ["1000"],
    }


def test_each_call_is_a_line_with_its_trace(server: RunningServer, stub: GRPCInferenceServiceStub) -> None:
    caller, untraced, mark = Caller(), Caller(sampled=False), secrets.token_hex(4)
    stub.ModelInfer(request(request_id=mark), metadata=caller.metadata)
    stub.ModelInfer(request(request_id=mark), metadata=untraced.metadata)
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(request(request_id=mark, width=3))
    stub.LogSettings(_log_settings(log_info=False))
    stub.ModelInfer(request(request_id=f"{mark}-quiet"))
    stub.LogSettings(_log_settings(log_info=True))
    stub.LogSettings(_log_settings())  # which has the lines written
    first, second, third = lines(server, "access", id=mark)
    assert not lines(server, "access", id=f"{mark}-quiet")
    assert (first["trace_id"], second["trace_id"], "trace_id" in third) == (caller.trace_id, untraced.trace_id, False)
    names = {"level": "info", "model": "alone", "version": "1", "method": "ModelInfer", "code": "OK", "batch_size": 1}
    assert first.items() >= names.items()
    assert first["peer"].startswith("127.0.0.1:")
    assert sum(first[f"{phase}_us"] for phase in PHASES) == pytest.approx(first["total_us"], abs=0.3)
    assert third["code"] == "INVALID_ARGUMENT"
    assert "batch_size" not in third


def _log_settings(**values: bool) -> open_inference_pb2.LogSettingsRequest:
    value_of = open_inference_pb2.LogSettingsRequest.SettingValue
    return open_inference_pb2.LogSettingsRequest(settings={name: value_of(bool_param=value) for name, value in values.items()})


def outcomes(server: RunningServer) -> dict[str, float]:
    families = text_string_to_metric_families(get(server, "/metrics"))
    (family,) = (family for family in families if family.name == "normserve_trace_spans")
    return {sample.labels["outcome"]: sample.value for sample in family.samples}


def test_spans_that_were_sent_are_counted(collector: Collector, server: RunningServer, stub: GRPCInferenceServiceStub) -> None:
    caller = Caller()
    stub.ModelInfer(request(), metadata=caller.metadata)
    collector.trace(caller.trace_id, 5)
    assert outcomes(server).items() >= {"failed": 0, "dropped": 0}.items()
    assert outcomes(server)["exported"] > 0


async def test_our_clients_send_the_trace_that_they_are_called_in(collector: Collector, server: RunningServer) -> None:
    x = np.zeros((1, WIDTH), np.float32)
    with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("caller") as span:
        with Client(server.grpc_address) as client:
            client.infer("alone", {"x": x})
            assert [answer.outputs["y"].shape for answer in client.infer_stream("alone", [{"x": x}])]
        async with AsyncClient(server.grpc_address) as client:
            await client.infer("alone", {"x": x})
    context = span.get_span_context()
    trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    spans = await asyncio.to_thread(collector.wait, lambda one: (one.trace_id, one.parent_id) == (trace_id, span_id), 3)
    assert sorted(span.name for span in spans) == [INFER, INFER, STREAM]


def test_two_workers_whose_collector_comes_late_lose_no_span_and_follow_trace_setting(repository: Path) -> None:
    port = free_port()
    arguments = ("--no-fold", "--workers", "2", "--log-format", "json", "--trace-rate", "1")
    with running_server(repository, arguments=(*arguments, "--otlp-endpoint", f"http://127.0.0.1:{port}")) as server:
        _call_over_many_connections(server)
        with collecting(port) as collector:
            spans = collector.wait(lambda span: span.name == INFER, CONNECTIONS)
            assert {span.process["normserve.worker"] for span in spans} == {0, 1}
            with grpc.insecure_channel(server.grpc_address) as channel:
                settings(GRPCInferenceServiceStub(channel), trace_level="OFF")
            _call_over_many_connections(server)
            server.process.terminate()  # which has the rest sent
            assert server.process.wait(30) == 0
            assert sum(span.name == INFER for span in collector.spans) == CONNECTIONS
    traced = lines(server, "trace")
    assert {line["trace_id"] for line in traced} == {span.trace_id for span in spans}


def _call_over_many_connections(server: RunningServer) -> None:
    """The system gives each to one of the workers."""
    for _ in range(CONNECTIONS):
        with grpc.insecure_channel(server.grpc_address, CHANNEL) as channel:
            GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=20)


def test_a_collector_that_hangs_disturbs_neither_calls_nor_the_end(repository: Path) -> None:
    with collecting(hangs=True) as collector:
        arguments = ("--no-fold", "--log-format", "json", "--otlp-endpoint", collector.endpoint)
        with running_server(repository, arguments=arguments) as server:
            with grpc.insecure_channel(server.grpc_address, [("grpc.enable_retries", 0)]) as channel:
                stub = GRPCInferenceServiceStub(channel)
                stub.ModelInfer(request(), metadata=Caller().metadata)
                assert collector.asked.wait(30)
                calls = [stub.ModelInfer.future(request(), timeout=30, metadata=Caller().metadata) for _ in range(1000)]
                assert all(call.result() for call in calls)
                stub.LogSettings(_log_settings())
            assert outcomes(server)["dropped"] > 0  # 5000 spans are more than may wait
            server.process.terminate()
            assert server.process.wait(30) == 0
            assert lines(server, "spans cannot be exported")
