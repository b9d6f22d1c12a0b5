"""ModelStreamInfer: ModelInfer, a message at a time.

Each answer is a ModelStreamInferResponse around a ModelInferResponse. As from Triton, an error comes with one that has only the
request's id and names, and every answer says that it is its request's last: `triton_final_response`.
"""

from google.protobuf.message import DecodeError
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors, wire

from normserve_server.inference import InferenceServicer
from normserve_server.plans import InferResponse
from normserve_server.refusals import Refusal
from normserve_server.streaming import StreamCodec

_INFER_RESPONSE = 2  # the field's number in ModelStreamInferResponse
_FINAL = pb.ModelInferResponse(parameters={"triton_final_response": pb.InferParameter(bool_param=True)})
_FINAL_BYTES = _FINAL.SerializeToString()


class StreamInferenceServicer:
    """Answers the messages of ModelStreamInfer.

    Args:
        inference: what answers each of them.
    """

    def __init__(self, inference: InferenceServicer) -> None:
        self.codecs = {"ModelStreamInfer": StreamCodec(inference.parse, serialize_response, refuse)}
        self.ModelStreamInfer = inference.ModelInfer


def serialize_response(response: InferResponse) -> bytes:
    """Serializes an answer; each output's memory is copied once."""
    raw = [tensors.encode(array) for array in response.outputs]
    parts = wire.parts(response.head + _FINAL_BYTES, wire.RAW_OUTPUT_CONTENTS, raw)
    return b"".join((wire.prefix(_INFER_RESPONSE, sum(map(len, parts))), *parts))


def refuse(data: bytes, refusal: Refusal) -> bytes:
    """Gives the message that tells of an error.

    Args:
        data: the request, which need not be one.
        refusal: what was wrong.
    """
    answer = pb.ModelStreamInferResponse(error_message=refusal.text)
    answer.infer_response.CopyFrom(_FINAL)
    try:
        request = pb.ModelInferRequest.FromString(wire.split(data, wire.RAW_INPUT_CONTENTS)[0])
    except DecodeError:
        return answer.SerializeToString()
    answer.infer_response.id = request.id
    answer.infer_response.model_name = request.model_name
    answer.infer_response.model_version = request.model_version
    return answer.SerializeToString()
