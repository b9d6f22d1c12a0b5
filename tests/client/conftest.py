# ruff: noqa: N802 - methods have the names of their RPCs
"""A gRPC server that answers with what it was asked, and fails when it is told to."""

import asyncio
import subprocess
import sys
import threading
from collections import deque
from concurrent import futures
from dataclasses import dataclass, field
from shutil import which

import grpc
import pytest
from echo_normalizers import EchoNormalizers
from normserve import AsyncClient, BatchNormLayer, Client, cli
from normserve_proto import (
    normalization_pb2,
    normalization_pb2_grpc,
    normalizers_pb2_grpc,
    open_inference_pb2_grpc,
)
from normserve_proto import open_inference_pb2 as pb

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]


@dataclass
class Seen:
    """A call as the server saw it."""

    method: str
    request: object
    metadata: dict
    time_remaining: float | None


@dataclass
class Plan:
    """What the server does, and what it saw.

    `failures` are given to the next calls, one each: (code, details) or (code, details, trailing metadata).
    """

    failures: deque = field(default_factory=deque)
    delay_s: float = 0
    seen: list = field(default_factory=list)
    infer_response: pb.ModelInferResponse | None = None
    busy: threading.Event = field(default_factory=threading.Event)
    stream_ended: threading.Event = field(default_factory=threading.Event)

    def meet(self, method, request, context):
        metadata = dict(context.invocation_metadata())
        self.seen.append(Seen(method, request, metadata, context.time_remaining()))
        self.busy.set()
        if self.delay_s:
            ended = futures.Future()
            context.add_callback(lambda: ended.set_result(None))
            futures.wait([ended], self.delay_s)
        if self.failures:
            code, details, *trailing = self.failures.popleft()
            if trailing:
                context.set_trailing_metadata(trailing[0])
            context.abort(code, details)


class EchoInference(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, plan):
        self.plan = plan

    def ServerLive(self, request, context):
        self.plan.meet("ServerLive", request, context)
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request, context):
        self.plan.meet("ServerReady", request, context)
        return pb.ServerReadyResponse(ready=True)

    def ModelReady(self, request, context):
        self.plan.meet("ModelReady", request, context)
        return pb.ModelReadyResponse(ready=request.name == "echo" and request.version in ("", "1"))

    def ServerMetadata(self, request, context):
        self.plan.meet("ServerMetadata", request, context)
        return pb.ServerMetadataResponse(name="echo-server", version="7", extensions=["statistics"])

    def ModelMetadata(self, request, context):
        self.plan.meet("ModelMetadata", request, context)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=["1", "2"],
            platform="python",
            inputs=[tensor(name="x", datatype="FP32", shape=[-1, 3])],
            outputs=[tensor(name="x", datatype="FP32", shape=[-1, 3]), tensor(name="y", datatype="BYTES", shape=[])],
            properties={"folded": "6"},
        )

    def ModelInfer(self, request, context):
        self.plan.meet("ModelInfer", request, context)
        if self.plan.infer_response is not None:
            return self.plan.infer_response
        output = pb.ModelInferResponse.InferOutputTensor
        return pb.ModelInferResponse(
            model_name=request.model_name,
            outputs=[output(name=t.name, datatype=t.datatype, shape=t.shape) for t in request.inputs],
            raw_output_contents=request.raw_input_contents,
        )

    def ModelStreamInfer(self, requests, context):
        context.add_callback(self.plan.stream_ended.set)
        for request in requests:
            if request.model_name == "broken":
                yield pb.ModelStreamInferResponse(error_message="no model 'broken'")
            else:
                yield pb.ModelStreamInferResponse(infer_response=self.ModelInfer(request, context))

    def ModelConfig(self, request, context):
        self.plan.meet("ModelConfig", request, context)
        config = pb.ModelConfig(name=request.name, max_batch_size=8)
        config.input.add(name="x", data_type=pb.TYPE_FP32, dims=[3])
        return pb.ModelConfigResponse(config=config)

    def ModelStatistics(self, request, context):
        self.plan.meet("ModelStatistics", request, context)
        stats = pb.InferStatistics(success=pb.StatisticDuration(count=3, ns=1_500_000_000))
        answer = pb.ModelStatistics(name="echo", version="2", inference_count=5, execution_count=2, inference_stats=stats)
        return pb.ModelStatisticsResponse(model_stats=[answer])

    def RepositoryIndex(self, request, context):
        self.plan.meet("RepositoryIndex", request, context)
        index = pb.RepositoryIndexResponse.ModelIndex
        models = [index(name="echo", version="1", state="READY")]
        if not request.ready:
            models.append(index(name="[broken]", version="3", state="UNAVAILABLE", reason="no [such] operator"))
        return pb.RepositoryIndexResponse(models=models)

    def RepositoryModelLoad(self, request, context):
        self.plan.meet("RepositoryModelLoad", request, context)
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(self, request, context):
        self.plan.meet("RepositoryModelUnload", request, context)
        return pb.RepositoryModelUnloadResponse()


class EchoNormalization(normalization_pb2_grpc.NormalizationServiceServicer):
    def __init__(self, plan):
        self.plan = plan

    def Normalize(self, request, context):
        self.plan.meet("Normalize", request, context)
        operator = getattr(request, request.WhichOneof("operator"))
        statistics = {
            name: getattr(operator, name)
            for name in ("running_mean", "running_var")
            if hasattr(operator, name) and operator.HasField(name)
        }
        return normalization_pb2.NormalizeResponse(output=request.input, **statistics)

    def NormalizeStream(self, requests, context):
        context.add_callback(self.plan.stream_ended.set)
        for request in requests:
            if request.input.shape == [0]:
                error = normalization_pb2.NormalizeError(code=3, message="nothing to normalize")
                yield normalization_pb2.NormalizeStreamResponse(error=error)
            else:
                yield normalization_pb2.NormalizeStreamResponse(response=self.Normalize(request, context))


@pytest.fixture
def plan():
    return Plan()


@pytest.fixture
def echo_server(plan):
    server = grpc.server(futures.ThreadPoolExecutor(8), options=OPTIONS)
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(EchoInference(plan), server)
    normalization_pb2_grpc.add_NormalizationServiceServicer_to_server(EchoNormalization(plan), server)
    normalizers_pb2_grpc.add_NormalizerServiceServicer_to_server(EchoNormalizers(plan), server)
    yield server
    server.stop(None).wait()


@pytest.fixture
def address(echo_server):
    port = echo_server.add_insecure_port("127.0.0.1:0")
    echo_server.start()
    return f"127.0.0.1:{port}"


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


@pytest.fixture(params=["Client", "AsyncClient"])
async def call(request, address):
    """Calls a verb of either client: `await call("infer", ...)`."""
    if request.param == "Client":
        with Client(address) as client:
            yield lambda verb, *args, **kwargs: asyncio.to_thread(getattr(client, verb), *args, **kwargs)
    else:
        async with AsyncClient(address) as client:
            yield lambda verb, *args, **kwargs: getattr(client, verb)(*args, **kwargs)


@pytest.fixture(params=["Client", "AsyncClient"])
async def normalizer(request, address):
    """Calls a verb of the normalizer "obs" of either client: `await normalizer("apply", x)`."""
    if request.param == "Client":
        with Client(address) as client:
            obs = client.normalizer("obs")
            yield lambda verb, *args, **kwargs: asyncio.to_thread(getattr(obs, verb), *args, **kwargs)
    else:
        async with AsyncClient(address) as client:
            obs = client.normalizer("obs")
            yield lambda verb, *args, **kwargs: getattr(obs, verb)(*args, **kwargs)


@pytest.fixture
async def obs(normalizer):
    """As `normalizer`, with one that is there."""
    await normalizer("create", BatchNormLayer(3))
    return normalizer


@pytest.fixture
def normserve(monkeypatch, capsys, address):
    """Runs the command line in this process: gives exit code, standard output and standard error."""
    monkeypatch.setenv("NORMSERVE_ADDRESS", address)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["normserve", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost: (key, certificate), both PEM."""
    if which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return key.read_bytes(), certificate.read_bytes()
