"""What a real server exports: that it is what docs/operations.md says, and that callers cannot make it more."""

import contextlib
import time

import grpc
import numpy as np
import pytest
from metered_server import MeteredServer
from metrics_table import Table, documented, exported
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from normserve_server import gpus
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

UNKNOWN = "nobodys-model"


@pytest.fixture(scope="module")
def expected() -> Table:
    """What is documented, without the GPUs' metrics where there is none."""
    return {name: row for name, row in documented().items() if gpus.found() or "gpu_" not in name}


def test_the_documented_metrics_are_the_exported_ones(metered: MeteredServer, expected: Table) -> None:
    deadline = time.monotonic() + 20
    while (shown := exported(plain(metered.metrics))).keys() != expected.keys() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert shown == expected


def test_openmetrics_has_the_same(metered: MeteredServer, expected: Table) -> None:
    assert exported(openmetrics(as_openmetrics(metered))).keys() == expected.keys()


def as_openmetrics(metered: MeteredServer) -> str:
    import urllib.request

    request = urllib.request.Request(
        f"http://{metered.server.http_address}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        assert "openmetrics" in response.headers["Content-Type"]
        return response.read().decode()


def test_phases_and_reasons_are_those_that_are_documented(metered: MeteredServer) -> None:
    (family,) = (family for family in plain(metered.metrics) if family.name == "normserve_requests_cut_short")
    counted = {(sample.labels["phase"], sample.labels["reason"]) for sample in family.samples if sample.value}
    assert {("queue", "deadline"), ("compute", "deadline")} <= counted


def requests() -> dict[str, object]:
    """A message about a model that nobody knows, by RPC; every RPC that names one."""
    infer = pb.ModelInferRequest(model_name=UNKNOWN, raw_input_contents=[np.zeros(4, "<f4").tobytes()])
    infer.inputs.add(name="x", datatype="FP32", shape=[4])
    trace = pb.TraceSettingRequest(model_name=UNKNOWN)
    return {
        "ModelInfer": infer,
        "ModelReady": pb.ModelReadyRequest(name=UNKNOWN, version="1"),
        "ModelMetadata": pb.ModelMetadataRequest(name=UNKNOWN, version="1"),
        "ModelConfig": pb.ModelConfigRequest(name=UNKNOWN, version="1"),
        "ModelStatistics": pb.ModelStatisticsRequest(name=UNKNOWN, version="1"),
        "TraceSetting": trace,
        "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name=UNKNOWN),
        "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name=UNKNOWN),
    }


def test_every_rpc_that_names_a_model_is_tried() -> None:
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    naming = {m.name for m in service.methods if {"name", "model_name"} & {field.name for field in m.input_type.fields}}
    others = {"SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "SystemSharedMemoryStatus"}
    cuda = {name.replace("System", "Cuda") for name in others}
    assert naming - others - cuda - {"ModelStreamInfer"} == requests().keys()


def test_a_request_for_an_unknown_model_or_version_makes_no_label(metered: MeteredServer) -> None:
    with grpc.insecure_channel(metered.server.grpc_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for name, message in requests().items():
            with contextlib.suppress(grpc.RpcError):
                getattr(stub, name)(message, timeout=20)
        other = pb.ModelInferRequest(model_name="digits", model_version="987654")
        for call in (lambda: stub.ModelInfer(other, timeout=20), lambda: list(stub.ModelStreamInfer(iter([other])))):
            with contextlib.suppress(grpc.RpcError):
                call()
        list(stub.ModelStreamInfer(iter([requests()["ModelInfer"]])))
    before = series(metered.metrics)
    assert any('code="NOT_FOUND"' in one and 'model=""' in one for one in before)
    assert not [one for one in before if UNKNOWN in one or "987654" in one]


def series(text: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
