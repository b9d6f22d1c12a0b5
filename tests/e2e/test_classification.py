"""Classes with their labels, from config.pbtxt to the wire."""

import grpc
import numpy as np
import pytest
from normserve.testing import RunningServer
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub


@pytest.mark.parametrize(
    ("model", "datatype", "shape", "expected"),
    [
        ("double", "FP32", [2, 3], [[b"6.000000:0:cat", b"4.000000:1:dog"], [b"6.000000:2", b"4.000000:1:dog"]]),
        ("nonzero", "FP32", [6], [b"5:5", b"4:4"]),
    ],
)
def test_the_largest_classes_and_their_labels(memory_server: RunningServer, model: str, datatype: str, shape, expected) -> None:
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    message.raw_input_contents.append(np.array([3, 2, 1, 1, 2, 3], "<f4").tobytes())
    message.outputs.add(name="y").parameters["classification"].int64_param = 2
    with grpc.insecure_channel(memory_server.grpc_address) as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(message)
    (output,) = response.outputs
    flat = np.array(expected, object)
    assert (output.datatype, tuple(output.shape)) == ("BYTES", flat.shape)
    assert response.raw_output_contents[0] == b"".join(len(text).to_bytes(4, "little") + text for text in flat.flat)
