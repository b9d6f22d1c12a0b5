"""Stopping under load: whatever was accepted is answered, and the process ends with 0."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from normserve.testing import RunningServer, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub

CLIENTS = 8
NO_RETRIES = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


@dataclass
class Tally:
    """What one client sent, and what came of it."""

    sent: int = 0
    codes: list[grpc.StatusCode] = field(default_factory=list)


def request() -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="digits")
    message.inputs.add(name="image", datatype="FP32", shape=[8, 1, 8, 8])
    message.raw_input_contents.append(np.zeros(8 * 64, "<f4").tobytes())
    return message


def hammer(address: str, tally: Tally, stop: threading.Event) -> None:
    with grpc.insecure_channel(address, NO_RETRIES) as channel:
        stub = GRPCInferenceServiceStub(channel)
        while not stop.is_set():
            tally.sent += 1
            try:
                stub.ModelInfer(request(), timeout=20)
                tally.codes.append(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                tally.codes.append(error.code())
                time.sleep(0.01)


def ok_count(server: RunningServer) -> int:
    with urllib.request.urlopen(f"http://{server.http_address}/metrics") as response:
        lines = response.read().decode().splitlines()
    name = 'normserve_requests_total{code="OK",method="ModelInfer",model="digits",version="1"} '
    return next(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_nothing(digits_repository: Path, cache_dir: Path, number: signal.Signals) -> None:
    tallies, stop = [Tally() for _ in range(CLIENTS)], threading.Event()
    with running_server(digits_repository, arguments=("--cache-dir", str(cache_dir))) as server:
        threads = [threading.Thread(target=hammer, args=(server.grpc_address, tally, stop)) for tally in tallies]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        assert ok_count(server) > 0
        server.process.send_signal(number)
        signalled = time.monotonic()
        assert server.process.wait(30) == 0
        assert time.monotonic() - signalled < 10  # although they never stop calling
        stop.set()
        for thread in threads:
            thread.join(30)
    for tally in tallies:
        assert len(tally.codes) == tally.sent  # each call had an end
        # All were answered until the door was shut; whoever came then was told so, before the connection went.
        answered = tally.codes.count(grpc.StatusCode.OK)
        assert tally.codes[:answered] == [grpc.StatusCode.OK] * answered
        assert tally.codes[answered] == grpc.StatusCode.UNAVAILABLE
    assert sum(tally.sent for tally in tallies) > 20 * CLIENTS


def test_health_watchers_are_told_and_do_not_hold_the_server_up(digits_repository: Path, cache_dir: Path) -> None:
    with running_server(digits_repository, arguments=("--cache-dir", str(cache_dir))) as server:
        with grpc.insecure_channel(server.grpc_address, NO_RETRIES) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            server.process.terminate()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            started = time.monotonic()
            assert server.process.wait(30) == 0
        assert time.monotonic() - started < 10  # the drain's own limit is 30 s


def test_a_stop_while_models_load_is_a_stop(digits_repository: Path, tmp_path: Path) -> None:
    arguments = ("--cache-dir", str(tmp_path / "fresh"))
    with running_server(digits_repository, arguments=arguments, wait_until="live") as server:
        server.process.terminate()
        assert server.process.wait(30) == 0
        assert not re.search('Traceback|"exception"', server.log)


@pytest.mark.parametrize(
    ("host", "text"), [("10.255.255.1", "Cannot assign requested address"), ("no.host.invalid", "not known")]
)
def test_an_address_that_is_not_ours_is_one_clear_line(digits_repository: Path, host: str, text: str) -> None:
    command = [sys.executable, "-m", "normserve_server", "--repository", str(digits_repository), "--host", host]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("normserve serve: gRPC port 8001 on " + host)
    assert result.stderr.count("\n") == 1
    assert text in result.stderr


def test_a_port_in_use_is_one_clear_line(digits_server: RunningServer, digits_repository: Path, cache_dir: Path) -> None:
    port = digits_server.grpc_address.rpartition(":")[2]
    command = [sys.executable, "-m", "normserve_server", "--repository", str(digits_repository), "--grpc-port", port]
    result = subprocess.run([*command, "--http-port", "0"], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert result.stderr == f"normserve serve: gRPC port {port} on 127.0.0.1: Address already in use\n"


def test_models_that_fail_do_not_take_the_others_down(digits_repository: Path, cache_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_repository, tmp_path / "r")
    broken = tmp_path / "r" / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"not an ONNX file")
    arguments = ("--cache-dir", str(cache_dir))
    with (
        running_server(tmp_path / "r", arguments=arguments, wait_until="live") as server,
        grpc.insecure_channel(server.grpc_address, NO_RETRIES) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        deadline = time.monotonic() + 60
        while "LOADING" in {m.state for m in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        index = {m.name: (m.state, m.reason) for m in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}
        assert index["digits"] == ("READY", "")
        assert index["broken"][0] == "UNAVAILABLE"
        assert index["broken"][1]
        stub.ModelInfer(request())
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(pb.ModelInferRequest(model_name="broken"))
        assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
        assert index["broken"][1] in refusal.value.details()
        assert dict(refusal.value.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"  # waiting does not mend it
        assert not stub.ModelReady(pb.ModelReadyRequest(name="broken")).ready
        assert not stub.ServerReady(pb.ServerReadyRequest()).ready
