"""A server whose log nobody reads any more, as of `normserve serve 2>&1 | tee log` after Ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from normserve.testing import free_port
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub

CONFIG = "max_batch_size: 2 dynamic_batching { max_queue_delay_microseconds: 1000000 }"


@pytest.fixture
def server(digits_repository: Path, cache_dir: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, str, str]]:
    shutil.copytree(digits_repository / "digits", tmp_path / "digits")
    (tmp_path / "digits/config.pbtxt").write_text(CONFIG)
    grpc_port, http_port = free_port(), free_port()
    flags = ["--grpc-port", str(grpc_port), "--http-port", str(http_port), "--cache-dir", str(cache_dir), "--access-log"]
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "normserve_server", "--repository", str(tmp_path), *flags]
    with subprocess.Popen(command, stderr=writer) as process:
        os.close(writer)
        deadline = time.monotonic() + 60
        while not is_ready(f"127.0.0.1:{http_port}"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.close(reader)
        yield process, f"127.0.0.1:{grpc_port}", f"127.0.0.1:{http_port}"
        process.kill()


def is_ready(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"http://{address}/health/ready", timeout=5).status == 200
    except urllib.error.URLError:
        return False


def request(samples: int) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="digits", raw_input_contents=[bytes(samples * 256)])
    message.inputs.add(name="image", datatype="FP32", shape=[samples, 1, 8, 8])
    return message


def test_calls_are_answered_and_the_drain_loses_none(server: tuple[subprocess.Popen, str, str]) -> None:
    process, address, http_address = server
    with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for _ in range(5):
            assert stub.ModelInfer(request(2), timeout=20).raw_output_contents
            assert is_ready(http_address)
        waits = stub.ModelInfer.future(request(1), timeout=20)
        with pytest.raises(grpc.FutureTimeoutError):
            waits.result(0.2)
        process.send_signal(signal.SIGTERM)
        assert np.frombuffer(waits.result().raw_output_contents[0], "<f4").any()
    assert process.wait(30) == 0
