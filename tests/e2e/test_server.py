"""A real server process, spoken to over the wire: every bad request has its code, and the server goes on."""

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from normserve.testing import RunningServer, running_server
from normserve_proto import normalization_pb2 as npb
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.normalization_pb2_grpc import NormalizationServiceStub
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module", params=["direct calls", "through grpc.aio"])
def digits_server(
    request: pytest.FixtureRequest, digits_server: RunningServer, digits_repository: Path, cache_dir: Path
) -> Iterator[RunningServer]:
    """Handlers and callers see no difference between the two ways."""
    if request.param == "direct calls":
        yield digits_server
        return
    with running_server(digits_repository, arguments=("--cache-dir", str(cache_dir), "--no-direct-calls")) as server:
        yield server


@pytest.fixture(scope="module")
def channel(digits_server: RunningServer) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(digits_server.grpc_address, options) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


@pytest.fixture
def infer_raw(channel: grpc.Channel) -> Callable[[bytes], bytes]:
    return channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")


def digits_request(samples: int = 1) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="digits", id="7")
    message.inputs.add(name="image", datatype="FP32", shape=[samples, 1, 8, 8])
    message.raw_input_contents.append(np.full(samples * 64, 0.5, "<f4").tobytes())
    return message


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details()


def test_live_ready_and_metadata(stub: GRPCInferenceServiceStub) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ModelReady(pb.ModelReadyRequest(name="digits", version="1")).ready
    assert stub.ServerMetadata(pb.ServerMetadataRequest()).name == "normserve"
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="digits"))
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("image", "FP32", [-1, 1, 8, 8])]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [("logits", "FP32", [-1, 10])]
    assert (metadata.versions, metadata.platform) == (["1"], "onnxruntime_onnx")
    assert metadata.properties["provider"] == "CPUExecutionProvider"
    assert int(metadata.properties["batch_norms_folded"]) >= 6
    assert metadata.properties["batch_norms_left"] == "0"
    assert 0 < float(metadata.properties["error_folded"]) <= 1e-6
    assert "batch_norms_left_because" not in metadata.properties


def test_repository_index(stub: GRPCInferenceServiceStub) -> None:
    model, *built_in = stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
    assert (model.name, model.version, model.state, model.reason) == ("digits", "1", "READY", "")
    assert all(other.name.startswith("normserve.") for other in built_in)


def test_inference(stub: GRPCInferenceServiceStub) -> None:
    response = stub.ModelInfer(digits_request(samples=3))
    assert (response.model_name, response.model_version, response.id) == ("digits", "1", "7")
    assert list(response.outputs[0].shape) == [3, 10]
    assert len(response.raw_output_contents[0]) == 3 * 10 * 4
    assert not response.outputs[0].HasField("contents")


def test_typed_contents_and_big_messages_give_the_same(stub: GRPCInferenceServiceStub) -> None:
    raw = digits_request(samples=64)
    typed = digits_request(samples=64)
    typed.inputs[0].contents.fp32_contents[:] = np.frombuffer(typed.raw_input_contents[0], "<f4").tolist()
    del typed.raw_input_contents[:]
    padded = pb.ModelInferRequest()
    padded.CopyFrom(raw)
    padded.id = "x" * 100_000
    answers = {bytes(stub.ModelInfer(message).raw_output_contents[0]) for message in (raw, typed, padded)}
    assert len(answers) == 1


def test_nan_is_a_number_like_any_other(stub: GRPCInferenceServiceStub) -> None:
    message = digits_request()
    message.raw_input_contents[0] = np.full(64, np.nan, "<f4").tobytes()
    logits = np.frombuffer(stub.ModelInfer(message).raw_output_contents[0], "<f4")
    assert np.isnan(logits).any()


def _model(m: pb.ModelInferRequest) -> None:
    m.model_name = "nothing"


def _version(m: pb.ModelInferRequest) -> None:
    m.model_version = "2"


def _version_text(m: pb.ModelInferRequest) -> None:
    m.model_version = "latest"


def _datatype(m: pb.ModelInferRequest) -> None:
    m.inputs[0].datatype = "FP64"


def _no_datatype(m: pb.ModelInferRequest) -> None:
    m.inputs[0].datatype = "FP99"


def _shape(m: pb.ModelInferRequest) -> None:
    m.inputs[0].shape[:] = [1, 8, 8, 1]


def _bytes(m: pb.ModelInferRequest) -> None:
    m.raw_input_contents[0] += b"x"


def _missing(m: pb.ModelInferRequest) -> None:
    del m.inputs[:], m.raw_input_contents[:]


def _extra(m: pb.ModelInferRequest) -> None:
    m.inputs.add(name="extra", datatype="FP32", shape=[1]).contents.fp32_contents.append(1)


def _zero(m: pb.ModelInferRequest) -> None:
    m.inputs[0].shape[0] = 0
    m.raw_input_contents[0] = b""


def _huge(m: pb.ModelInferRequest) -> None:
    m.inputs[0].shape[0] = 2**50


def _overflowing(m: pb.ModelInferRequest) -> None:
    m.inputs[0].shape[:] = [2**62, 2**62, 0, 0]
    m.raw_input_contents[0] = b""


def _batch(m: pb.ModelInferRequest) -> None:
    m.CopyFrom(digits_request(samples=65))


def _output(m: pb.ModelInferRequest) -> None:
    m.outputs.add(name="probability")


@pytest.mark.parametrize(
    ("spoil", "code", "parts"),
    [
        (_model, grpc.StatusCode.NOT_FOUND, ["nothing", "digits"]),
        (_version, grpc.StatusCode.NOT_FOUND, ["digits", "2", "1"]),
        (_version_text, INVALID, ["latest", "integer"]),
        (_datatype, INVALID, ["image", "FP32", "FP64"]),
        (_no_datatype, INVALID, ["image", "FP32", "FP99"]),
        (_shape, INVALID, ["image", "[-1, 1, 8, 8]", "[1, 8, 8, 1]"]),
        (_bytes, INVALID, ["image", "256", "257"]),
        (_missing, INVALID, ["image", "none"]),
        (_extra, INVALID, ["extra", "image"]),
        (_zero, INVALID, ["image", "0 samples", "64"]),
        (_huge, INVALID, ["image", str(2**50), "64"]),
        (_overflowing, INVALID, ["image", "[-1, 1, 8, 8]"]),
        (_batch, INVALID, ["image", "65", "64"]),
        (_output, INVALID, ["probability", "logits"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_requests(
    stub: GRPCInferenceServiceStub,
    spoil: Callable[[pb.ModelInferRequest], None],
    code: grpc.StatusCode,
    parts: list[str],
) -> None:
    message = digits_request()
    spoil(message)
    got, text = refusal(lambda: stub.ModelInfer(message))
    assert got == code
    assert all(part in text for part in parts), text
    stub.ModelInfer(digits_request())


@pytest.mark.parametrize("samples", [1, 300], ids=["small", "big"])
def test_a_truncated_message(infer_raw: Callable[[bytes], bytes], stub: GRPCInferenceServiceStub, samples: int) -> None:
    data = digits_request(samples).SerializeToString()
    code, text = refusal(lambda: infer_raw(data[:-3]))
    assert (code, "pars" in text) == (INVALID, True)
    assert refusal(lambda: infer_raw(b"\xff\xff"))[0] == INVALID
    stub.ModelInfer(digits_request())


@pytest.mark.parametrize("name", ["x" * 5000, "漢" * 3000, "😀" * 3000])
def test_a_name_of_any_length_and_script_is_just_not_found(stub: GRPCInferenceServiceStub, name: str) -> None:
    for _ in range(4):
        code, text = refusal(lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name=name)))
        assert code == grpc.StatusCode.NOT_FOUND
        assert text.startswith("no model '" + name[:5])


def test_a_very_long_text_still_arrives(stub: GRPCInferenceServiceStub) -> None:
    message = digits_request()
    message.inputs[0].shape[:] = [1] * 5000
    code, text = refusal(lambda: stub.ModelInfer(message))
    assert code == INVALID
    assert len(text) <= 1024


def test_unknown_models_are_not_found_everywhere(stub: GRPCInferenceServiceStub) -> None:
    assert refusal(lambda: stub.ModelReady(pb.ModelReadyRequest(name="x")))[0] == grpc.StatusCode.NOT_FOUND
    assert refusal(lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name="x")))[0] == grpc.StatusCode.NOT_FOUND
    assert refusal(lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name="digits", version="v1")))[0] == INVALID


def test_what_is_not_implemented_says_so(stub: GRPCInferenceServiceStub) -> None:
    calls = [
        lambda: stub.SystemSharedMemoryRegister(pb.SystemSharedMemoryRegisterRequest(name="r")),
        lambda: stub.CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest(name="r")),
    ]
    assert {refusal(call)[0] for call in calls} == {grpc.StatusCode.UNIMPLEMENTED}


def test_health(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", "digits"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == serving
    watch = health.Watch(health_pb2.HealthCheckRequest(service="digits"))
    assert next(watch).status == serving
    watch.cancel()
    code, _ = refusal(lambda: health.Check(health_pb2.HealthCheckRequest(service="nothing")))
    assert code == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_and_describes(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert services >= {
        "inference.GRPCInferenceService",
        "normserve.v1.NormalizationService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool(database)
    for service in services:
        assert pool.FindServiceByName(service).methods
    infer = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name["ModelInfer"]
    assert infer.input_type.fields_by_name["raw_input_contents"].number == 7
    normalize = pool.FindServiceByName("normserve.v1.NormalizationService").methods_by_name["Normalize"]
    assert "rms_norm" in normalize.input_type.fields_by_name


def tensor(array: np.ndarray) -> npb.Tensor:
    return npb.Tensor(datatype="FP32", shape=array.shape, data=array.astype("<f4").tobytes())


def test_normalize_trains_and_counts(channel: grpc.Channel) -> None:
    x = np.arange(12, dtype="<f4").reshape(4, 3)
    layer = npb.BatchNorm(
        running_mean=tensor(np.zeros(3)), running_var=tensor(np.ones(3)), training=True, num_batches_tracked=1, cumulative=True
    )
    answer = NormalizationServiceStub(channel).Normalize(npb.NormalizeRequest(input=tensor(x), batch_norm=layer))
    assert answer.num_batches_tracked == 2
    np.testing.assert_allclose(np.frombuffer(answer.running_mean.data, "<f4"), x.mean(0) / 2, rtol=1e-6)
    np.testing.assert_allclose(np.frombuffer(answer.running_var.data, "<f4"), (x.var(0, ddof=1) + 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(np.frombuffer(answer.output.data, "<f4").reshape(4, 3).mean(0), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (npb.NormalizeRequest(rms_norm=npb.RmsNorm(normalized_shape=[3])), "input: required"),
        (npb.NormalizeRequest(input=tensor(np.ones(3))), "operator: one of batch_norm"),
        (npb.NormalizeRequest(input=npb.Tensor(datatype="INT8", shape=[1], data=b"x"), layer_norm=npb.LayerNorm()), "INT8"),
        (npb.NormalizeRequest(input=npb.Tensor(datatype="FP32", shape=[2], data=b"x"), layer_norm=npb.LayerNorm()), "8 bytes"),
        (npb.NormalizeRequest(input=tensor(np.ones((1, 3))), batch_norm=npb.BatchNorm(training=True)), "more than 1 value"),
        (
            npb.NormalizeRequest(input=tensor(np.ones((2, 3))), batch_norm=npb.BatchNorm(training=True, cumulative=True)),
            "cumulative averaging takes num_batches_tracked",
        ),
        (
            npb.NormalizeRequest(input=tensor(np.ones((2, 3))), batch_norm=npb.BatchNorm(num_batches_tracked=-1)),
            "num_batches_tracked is >= 0 and < 9223372036854775807, got -1",
        ),
        (
            npb.NormalizeRequest(input=tensor(np.ones((2, 3))), batch_norm=npb.BatchNorm(num_batches_tracked=2**63 - 1)),
            "got 9223372036854775807",
        ),
        (  # torch would allocate a statistic for each row
            npb.NormalizeRequest(
                input=npb.Tensor(datatype="FP32", shape=[2**36, 0]), rms_norm=npb.RmsNorm(normalized_shape=[0])
            ),
            "[68719476736, 0] is empty and claims more than",
        ),
    ],
)
def test_bad_normalizations(channel: grpc.Channel, request_: npb.NormalizeRequest, text: str) -> None:
    stub = NormalizationServiceStub(channel)
    code, details = refusal(lambda: stub.Normalize(request_))
    assert code == INVALID
    assert text in details


def test_a_big_tensor_is_normalized_off_the_loop(channel: grpc.Channel) -> None:
    x = np.random.default_rng(0).normal(size=(64, 4096)).astype("<f4")
    request = npb.NormalizeRequest(input=tensor(x), layer_norm=npb.LayerNorm(normalized_shape=[4096]))
    answer = NormalizationServiceStub(channel).Normalize(request)
    output = np.frombuffer(answer.output.data, "<f4").reshape(x.shape)
    np.testing.assert_allclose(output, (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True), atol=1e-4)


def metrics(server: RunningServer) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{server.http_address}/metrics") as response:
        lines = [line for line in response.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_count_by_model_and_code(stub: GRPCInferenceServiceStub, digits_server: RunningServer) -> None:
    def requests(exported: dict[str, float], code: str, model: str, version: str) -> float:
        labels = f'code="{code}",method="ModelInfer",model="{model}",version="{version}"'
        return exported.get(f"normserve_requests_total{{{labels}}}", 0)

    before = metrics(digits_server)
    for _ in range(5):
        stub.ModelInfer(digits_request())
    refusal(lambda: stub.ModelInfer(pb.ModelInferRequest(model_name="made-up-by-the-caller")))
    time.sleep(0.05)  # the answer leaves before it is counted
    after = metrics(digits_server)
    assert requests(after, "OK", "digits", "1") == requests(before, "OK", "digits", "1") + 5
    assert requests(after, "NOT_FOUND", "", "") == requests(before, "NOT_FOUND", "", "") + 1
    assert not any("made-up-by-the-caller" in name for name in after)
    assert after['normserve_model_batch_norms{model="digits",state="left",version="1"}'] == 0
    assert after['normserve_model_batch_norms{model="digits",state="folded",version="1"}'] >= 6
    assert 0 < after['normserve_model_fold_error{file="folded",model="digits",version="1"}'] <= 1e-6
    assert 0 < after['normserve_model_fold_error{file="unfolded",model="digits",version="1"}'] <= 1e-6


def test_phases_add_up_to_the_whole_request(stub: GRPCInferenceServiceStub, digits_server: RunningServer) -> None:
    def seconds(name: str, phase: str = "") -> float:
        labels = f'method="ModelInfer",model="digits",{phase}version="1"'
        return metrics(digits_server).get(f"{name}_sum{{{labels}}}", 0.0)

    def measured() -> tuple[float, float]:
        phases = ("decode", "queue", "compute", "encode")
        parts = [seconds("normserve_phase_duration_seconds", f'phase="{phase}",') for phase in phases]
        return seconds("normserve_request_duration_seconds"), sum(parts)

    total, parts = measured()
    for _ in range(20):
        stub.ModelInfer(digits_request())
    time.sleep(0.05)
    total, parts = (after - before for after, before in zip(measured(), (total, parts), strict=True))
    assert 0.8 * total < parts <= total


def test_http_health(digits_server: RunningServer) -> None:
    for path in ("live", "ready"):
        with urllib.request.urlopen(f"http://{digits_server.http_address}/health/{path}") as response:
            assert response.status == 200
