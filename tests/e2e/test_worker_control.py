"""Calls that concern all workers, with two of them: loads, settings and statistics, and what a new worker knows of them."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from normserve.testing import RunningServer, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from normserve_proto.shared_memory import FOLDER
from workers_load import children, until, value

CONNECTIONS = 16  # that all are with one worker happens once in 32,768 times


@pytest.fixture(scope="module")
def server(digits_repository: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    repository = tmp_path_factory.mktemp("explicit")
    for name in ("one", "other"):
        shutil.copytree(digits_repository / "digits", repository / name)
    arguments = ("--workers", "2", "--cache-dir", str(cache_dir), "--model-control-mode", "explicit", "--load-model", "one")
    with running_server(repository, arguments=(*arguments, "--allow-shared-memory")) as server:
        yield server


@pytest.fixture(scope="module")
def stubs(server: RunningServer) -> Iterator[list[GRPCInferenceServiceStub]]:
    """One a connection."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(server.grpc_address, options) for _ in range(CONNECTIONS)]
    yield [GRPCInferenceServiceStub(channel) for channel in channels]
    for channel in channels:
        channel.close()


@pytest.fixture(scope="module")
def region(stubs: list[GRPCInferenceServiceStub]) -> Iterator[str]:
    """A region that one connection has registered."""
    key = f"/normserve-workers-{os.getpid()}"
    path = Path(FOLDER + key)
    path.write_bytes(bytes(256))
    stubs[0].SystemSharedMemoryRegister(pb.SystemSharedMemoryRegisterRequest(name="r", key=key, byte_size=256))
    yield "r"
    path.unlink()


def request(model: str, region: str = "") -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model)
    image = message.inputs.add(name="image", datatype="FP32", shape=[1, 1, 8, 8])
    if region:
        image.parameters["shared_memory_region"].string_param = region
        image.parameters["shared_memory_byte_size"].int64_param = 256
    else:
        message.raw_input_contents.append(np.zeros(64, "<f4").tobytes())
    return message


def codes(stubs: list[GRPCInferenceServiceStub], model: str, region: str = "") -> set[grpc.StatusCode]:
    """What the connections get; each tries again where its worker has just died."""

    def code(stub: GRPCInferenceServiceStub) -> grpc.StatusCode:
        try:
            stub.ModelInfer(request(model, region), timeout=20, wait_for_ready=True)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    return {code(stub) for stub in stubs}


def test_a_load_reaches_all_and_those_who_come_later(
    server: RunningServer, stubs: list[GRPCInferenceServiceStub], region: str
) -> None:
    assert codes(stubs, "one") == {grpc.StatusCode.OK}
    assert codes(stubs, "other") == {grpc.StatusCode.UNAVAILABLE}
    stubs[0].RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="other"))
    assert codes(stubs, "other", region) == {grpc.StatusCode.OK}
    stubs[1].RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="one"))
    assert codes(stubs, "one") == {grpc.StatusCode.UNAVAILABLE}
    setting = {"log_verbose_level": pb.LogSettingsRequest.SettingValue(uint32_param=1)}
    stubs[2].LogSettings(pb.LogSettingsRequest(settings=setting))

    os.kill(children(server.process.pid)[0], signal.SIGKILL)
    until(lambda: value(server, "normserve_workers") == 1)
    until(lambda: value(server, "normserve_workers") == 2)
    until(lambda: codes(stubs, "other") == {grpc.StatusCode.OK})
    assert codes(stubs, "one") == {grpc.StatusCode.UNAVAILABLE}
    levels = {stub.LogSettings(pb.LogSettingsRequest()).settings["log_verbose_level"].uint32_param for stub in stubs}
    assert levels == {1}
    assert codes(stubs, "other", region) == {grpc.StatusCode.OK}
    stubs[4].SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name=region))
    assert codes(stubs, "other", region) == {grpc.StatusCode.NOT_FOUND}
    stubs[3].RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="one"))
    assert codes(stubs, "one") == {grpc.StatusCode.OK}


def test_a_refusal_is_that_of_one_process(stubs: list[GRPCInferenceServiceStub]) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        stubs[0].RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="absent"))
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert refusal.value.details().startswith("no model 'absent' in ")


def test_a_load_with_a_config_reaches_all(stubs: list[GRPCInferenceServiceStub]) -> None:
    load = pb.RepositoryModelLoadRequest(model_name="other")
    load.parameters["config"].string_param = '{"max_batch_size": 3}'
    stubs[0].RepositoryModelLoad(load)
    configs = {stub.ModelConfig(pb.ModelConfigRequest(name="other")).config.max_batch_size for stub in stubs}
    assert configs == {3}


def test_statistics_are_those_of_all_workers(stubs: list[GRPCInferenceServiceStub]) -> None:
    def count(stub: GRPCInferenceServiceStub) -> int:
        (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="other")).model_stats
        assert sum(batch.compute_infer.count for batch in statistics.batch_stats) == statistics.execution_count
        return statistics.inference_count

    before = {count(stub) for stub in stubs}
    assert len(before) == 1
    assert codes(stubs, "other") == {grpc.StatusCode.OK}
    assert {count(stub) for stub in stubs} == {before.pop() + CONNECTIONS}


def test_trace_settings_are_those_of_all_workers(stubs: list[GRPCInferenceServiceStub]) -> None:
    settings = {"trace_rate": pb.TraceSettingRequest.SettingValue(value=["77"])}
    stubs[0].TraceSetting(pb.TraceSettingRequest(settings=settings))
    rates = {stub.TraceSetting(pb.TraceSettingRequest()).settings["trace_rate"].value[0] for stub in stubs}
    assert rates == {"77"}
