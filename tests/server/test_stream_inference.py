"""The bytes of ModelStreamInfer, against protobuf's own."""

import grpc
import numpy as np
import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_server.inference import InferResponse
from normserve_server.refusals import Refusal
from normserve_server.stream_inference import refuse, serialize_response

NOT_FOUND = grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("sizes", [(), (3,), (0, 7, 100_000), (2**20,)])
def test_an_answer_is_what_protobuf_would_write(sizes: tuple[int, ...]) -> None:
    outputs = [np.arange(size, dtype=np.float32) for size in sizes]
    answer = pb.ModelInferResponse(model_name="m", model_version="1", id="7")
    for output in outputs:
        answer.outputs.add(name="y", datatype="FP32", shape=output.shape)
    data = serialize_response(InferResponse(answer.SerializeToString(), outputs))
    answer.raw_output_contents.extend(output.tobytes() for output in outputs)
    answer.parameters["triton_final_response"].bool_param = True
    assert pb.ModelStreamInferResponse.FromString(data) == pb.ModelStreamInferResponse(infer_response=answer)


def test_an_error_names_the_request_that_it_answers() -> None:
    request = pb.ModelInferRequest(model_name="m", model_version="3", id="7", raw_input_contents=[bytes(1000)])
    answer = pb.ModelStreamInferResponse.FromString(refuse(request.SerializeToString(), Refusal(NOT_FOUND, "no model 'm'")))
    assert answer.error_message == "no model 'm'"
    assert (answer.infer_response.id, answer.infer_response.model_name, answer.infer_response.model_version) == ("7", "m", "3")
    assert answer.infer_response.parameters["triton_final_response"].bool_param


@pytest.mark.parametrize("data", [b"\xff\xff", b"", pb.ModelInferRequest(id="x" * 50).SerializeToString()[:-3]])
def test_an_error_answers_what_is_no_request_too(data: bytes) -> None:
    answer = pb.ModelStreamInferResponse.FromString(refuse(data, Refusal(NOT_FOUND, "wrong")))
    assert (answer.error_message, answer.infer_response.id) == ("wrong", "")
