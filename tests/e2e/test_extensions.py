"""What Triton's clients find beyond the protocol's core, against a real server in `error_codes = "triton"`."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from normserve.testing import RunningServer, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from onnx import TensorProto, helper

SHAPE = (1024, 512)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Serves `slow`, which takes a tenth of a second a request, with room for two that wait."""
    repository = tmp_path_factory.mktemp("extensions")
    _save_slow(repository / "slow" / "1")
    arguments = ("--no-fold", "--max-queue-size", "2", "--error-codes", "triton", "--log-format", "json")
    with running_server(repository, arguments=arguments) as server:
        yield server


def _save_slow(folder: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [512, 512], np.eye(512, dtype=np.float32).tobytes(), raw=True)
    names = ["x", *(f"h{i}" for i in range(15)), "y"]
    chain = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    x, y = (helper.make_tensor_value_info(tensor, TensorProto.FLOAT, SHAPE) for tensor in "xy")
    graph = helper.make_graph(chain, "slow", [x], [y], [weight])
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc_address, [("grpc.enable_retries", 0)]) as channel:
        yield GRPCInferenceServiceStub(channel)


def request(request_id: str = "", timeout_us: int = 0) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="slow", id=request_id)
    message.inputs.add(name="x", datatype="FP32", shape=SHAPE)
    message.raw_input_contents.append(bytes(4 * SHAPE[0] * SHAPE[1]))
    if timeout_us:
        message.parameters["timeout"].int64_param = timeout_us
    return message


def test_a_full_queue_is_unavailable_and_says_when_to_come_back(stub: GRPCInferenceServiceStub) -> None:
    calls = [stub.ModelInfer.future(request()) for _ in range(8)]
    codes = Counter(call.code() for call in calls)
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    refused = next(call for call in calls if call.code() == grpc.StatusCode.UNAVAILABLE)
    assert "requests wait already" in refused.details()
    assert int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"]) > 0


def test_a_queue_timeout_is_unavailable(stub: GRPCInferenceServiceStub) -> None:
    """Calls begun at once arrive in any order, so one that was to come last is tried again if it came first."""
    codes = [_behind_two(stub) for _ in range(5)]
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert grpc.StatusCode.UNAVAILABLE in codes


def _behind_two(stub: GRPCInferenceServiceStub) -> grpc.StatusCode:
    before = [stub.ModelInfer.future(request()) for _ in range(2)]
    time.sleep(0.01)
    hurried = stub.ModelInfer.future(request(timeout_us=1000))
    assert [call.code() for call in before] == [grpc.StatusCode.OK] * 2
    return hurried.code()


def statistics(stub: GRPCInferenceServiceStub) -> pb.ModelStatistics:
    (model,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="slow")).model_stats
    assert (model.name, model.version) == ("slow", "1")
    return model


def test_answers_are_counted_with_their_times(stub: GRPCInferenceServiceStub) -> None:
    before = statistics(stub)
    stub.ModelInfer(request())
    list(stub.ModelStreamInfer(iter([request(), request()])))
    after = statistics(stub)
    assert after.inference_count == before.inference_count + 3
    assert after.execution_count == before.execution_count + 3
    assert after.last_inference > before.last_inference
    found, past = after.inference_stats, before.inference_stats
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(found, name).count == getattr(past, name).count + 3
    assert found.compute_infer.ns - past.compute_infer.ns > 3_000_000
    assert found.success.ns - past.success.ns > found.compute_infer.ns - past.compute_infer.ns
    assert [batch.batch_size for batch in after.batch_stats] == [1]


def test_refusals_of_a_known_version_are_counted(stub: GRPCInferenceServiceStub) -> None:
    before = statistics(stub).inference_stats.fail
    bad = request()
    bad.inputs[0].datatype = "FP64"
    for message in (bad, bad, pb.ModelInferRequest(model_name="nothing")):
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(message)
    list(stub.ModelStreamInfer(iter([bad])))
    after = statistics(stub).inference_stats.fail
    assert after.count == before.count + 3
    assert after.ns > before.ns


def test_the_server_names_its_extensions(stub: GRPCInferenceServiceStub) -> None:
    extensions = set(stub.ServerMetadata(pb.ServerMetadataRequest()).extensions)
    assert extensions >= {"model_configuration", "parameters", "statistics", "trace", "logging"}
    assert not extensions & {"sequence", "cuda_shared_memory", "binary_tensor_data", "system_shared_memory"}


def test_traces_are_lines_of_the_log_as_long_as_it_takes_them(stub: GRPCInferenceServiceStub, server: RunningServer) -> None:
    trace = pb.TraceSettingRequest(model_name="slow")
    for name, value in (("trace_level", "TIMESTAMPS"), ("trace_rate", "1"), ("trace_count", "3")):
        trace.settings[name].value.append(value)
    stub.TraceSetting(trace)
    stub.ModelInfer(request("one"))
    log_info(stub, on=False)
    stub.ModelInfer(request("two"))
    log_info(stub, on=True)
    list(stub.ModelStreamInfer(iter([request("three")])))
    stub.ModelInfer(request("four"))
    lines = traces(server, 2)
    assert [(line["id"], line["method"], line["code"]) for line in lines] == [
        ("one", "ModelInfer", "OK"),
        ("three", "ModelStreamInfer", "OK"),
    ]
    for line in lines:
        assert (line["model"], line["version"]) == ("slow", "1")
        phases = [line[f"{phase}_us"] for phase in ("decode", "queue", "compute", "encode")]
        assert 0 < sum(phases) <= line["total_us"] + 1
        assert line["compute_us"] > 1000


def traces(server: RunningServer, wanted: int) -> list[dict]:
    """The log's traces once there are so many; what the server writes takes a moment to be here."""
    for _ in range(100):
        lines = [line for line in map(json.loads, server.log.splitlines()) if line["event"] == "trace"]
        if len(lines) >= wanted:
            return lines
        time.sleep(0.05)
    return lines


def log_info(stub: GRPCInferenceServiceStub, *, on: bool) -> None:
    settings = pb.LogSettingsRequest()
    settings.settings["log_info"].bool_param = on
    assert stub.LogSettings(settings).settings["log_info"].bool_param == on


def test_settings_that_cannot_be_are_refused_by_name(stub: GRPCInferenceServiceStub) -> None:
    trace, log = pb.TraceSettingRequest(), pb.LogSettingsRequest()
    trace.settings["trace_file"].value.append("/tmp/trace.json")
    log.settings["log_file"].string_param = "/tmp/log"
    for call, message in ((stub.TraceSetting, trace), (stub.LogSettings, log)):
        with pytest.raises(grpc.RpcError) as error:
            call(message)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert next(iter(message.settings)) in error.value.details()
