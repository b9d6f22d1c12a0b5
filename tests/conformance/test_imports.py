"""normserve and Triton's client in one process, in any order: our messages live in a descriptor pool of their own."""

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tritonclient") is None, reason="the dependency group 'conformance' is not installed"
)

USE = """
import numpy
from normserve import requests
from tritonclient.grpc import service_pb2, InferInput
from normserve_proto import open_inference_pb2

array = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
ours = requests.infer("m", {"x": array}).call().request
tensor = InferInput("x", [2, 3], "FP32")
tensor.set_data_from_numpy(array)
theirs = service_pb2.ModelInferRequest(model_name="m", inputs=[tensor._get_tensor()])
theirs.raw_input_contents.append(tensor._get_content())
assert service_pb2.ModelInferRequest.FromString(ours) == theirs
assert open_inference_pb2.ModelInferRequest.FromString(theirs.SerializeToString()).raw_input_contents == [array.tobytes()]
"""


@pytest.mark.parametrize(
    "order",
    [
        ("normserve", "tritonclient.grpc"),
        ("tritonclient.grpc", "normserve"),
        ("normserve_proto.open_inference_pb2_grpc", "tritonclient.grpc.service_pb2_grpc"),
        ("tritonclient.grpc.service_pb2_grpc", "normserve_proto.open_inference_pb2_grpc"),
        ("tritonclient.grpc.aio", "normserve.aio"),
    ],
    ids=" then ".join,
)
def test_both_can_be_imported_and_used(order):
    imports = "".join(f"import {module}\n" for module in order)
    subprocess.run([sys.executable, "-c", imports + USE], check=True, timeout=60)


def test_another_backend_of_protobuf_is_refused_with_a_reason():
    command = [sys.executable, "-c", "import normserve"]
    environment = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "needs protobuf's upb backend" in refused.stderr
