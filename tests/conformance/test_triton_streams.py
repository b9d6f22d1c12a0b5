"""Triton's own clients, unmodified, in processes of their own: streams, and the extensions' settings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from normserve.testing import RunningServer
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub

pytest.importorskip("tritonclient.grpc", reason="the dependency group `conformance` is not installed")

SCRIPT = Path(__file__).with_name("triton_streams.py")
REQUESTS = 200


def told(server: RunningServer, kind: str) -> Any:
    command = [sys.executable, str(SCRIPT), server.grpc_address, kind]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_a_stream_answers_in_order_and_goes_on_after_an_error(digits_server: RunningServer, kind: str) -> None:
    *answers, error, last = told(digits_server, kind)
    assert [answer["id"] for answer in answers] == [str(number) for number in range(REQUESTS)]
    assert all(answer["final"] for answer in answers)
    assert "no model 'nothing'" in error["error"]
    assert last["id"] == "last"
    with grpc.insecure_channel(digits_server.grpc_address) as channel:
        for number in (0, 7, 199):
            expected = unary(GRPCInferenceServiceStub(channel), number)
            np.testing.assert_allclose(answers[number]["logits"], expected, rtol=1e-4, atol=1e-4)


def unary(stub: GRPCInferenceServiceStub, number: int) -> np.ndarray:
    samples = 1 + number % 4
    message = pb.ModelInferRequest(model_name="digits")
    message.inputs.add(name="image", datatype="FP32", shape=[samples, 1, 8, 8])
    message.raw_input_contents.append(np.full(samples * 64, number, "<f4").tobytes())
    return np.frombuffer(stub.ModelInfer(message).raw_output_contents[0], "<f4").reshape(samples, 10)


def test_the_settings_of_the_extensions(digits_server: RunningServer) -> None:
    answers = told(digits_server, "settings")
    assert {"statistics", "trace", "logging", "model_configuration"} <= set(answers["extensions"])
    (statistics,) = answers["statistics"]["model_stats"]
    assert (statistics["name"], statistics["version"]) == ("digits", "1")
    config = answers["config"]["config"]
    assert (config["name"], config["max_batch_size"]) == ("digits", 64)
    assert [(given["name"], given["data_type"], given["dims"]) for given in config["input"]] == [
        ("image", "TYPE_FP32", ["1", "8", "8"])
    ]
    assert answers["trace"]["settings"]["trace_rate"] == {"value": ["500"]}
    assert answers["trace_cleared"] == answers["traces"]
    assert answers["traces"]["settings"]["trace_level"] == {"value": ["OFF"]}
    assert answers["log"]["settings"]["log_info"] == {"bool_param": True}
