"""Requests and answers without a network."""

import numpy as np
import pytest
from normserve import InternalError, InvalidArgumentError, requests
from normserve_proto import open_inference_pb2 as pb


def test_an_inference_is_what_protobuf_would_write():
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    wanted = pb.ModelInferRequest(model_name="m", id="7", raw_input_contents=[array.tobytes(), b"\1\0\0\0a"])
    wanted.inputs.add(name="x", datatype="INT16", shape=[2, 3])
    wanted.inputs.add(name="s", datatype="BYTES", shape=[])
    call = requests.infer("m", {"x": array, "s": np.array("a")}, request_id="7").call()
    assert call.method == "/inference.GRPCInferenceService/ModelInfer"
    assert pb.ModelInferRequest.FromString(call.request) == wanted


def test_whatever_numpy_takes_for_an_array_is_one():
    request = pb.ModelInferRequest.FromString(requests.infer("m", {"x": [[1.5, 2.5]]}).call().request)
    assert (request.inputs[0].datatype, list(request.inputs[0].shape)) == ("FP64", [1, 2])


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, None, b"x", [1]])
def test_a_parameter_that_cannot_travel(value):
    with pytest.raises(InvalidArgumentError, match="parameter 'p': wanted a bool"):
        requests.infer("m", {}, parameters={"p": value})


@pytest.mark.parametrize("value", [0, 1, -1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1])
def test_every_integer_of_64_bits_travels(value):
    request = pb.ModelInferRequest.FromString(requests.infer("m", {}, parameters={"p": value}).call().request)
    parameter = request.parameters["p"]
    assert getattr(parameter, parameter.WhichOneof("parameter_choice")) == value


def test_an_element_that_cannot_travel_names_its_input():
    with pytest.raises(InvalidArgumentError, match="input 's': a BYTES element is bytes or str, got int"):
        requests.infer("m", {"s": np.array([1, "a"], object)})


@pytest.mark.parametrize("call", [requests.server_live(), requests.model_metadata("m", ""), requests.infer("m", {}).call()])
def test_bytes_that_are_no_message(call):
    with pytest.raises(InternalError, match="cannot be read"):
        call.read(b"\xff\xff")
