"""Each thing that can be wrong with a request: its code, and a text that names it with both values."""

from collections.abc import Callable

import numpy as np
import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import TensorError
from normserve_server.errors import InvalidRequestError, UnimplementedError
from normserve_server.servable import DYNAMIC, Signature, TensorSpec
from normserve_server.validation import Work, plan

SIGNATURE = Signature(
    inputs=(TensorSpec("image", "FP32", (DYNAMIC, 2)), TensorSpec("scale", "INT64", (DYNAMIC, 1))),
    outputs=(TensorSpec("logits", "FP32", (DYNAMIC, 3)), TensorSpec("label", "BYTES", (DYNAMIC,))),
    max_batch_size=4,
)


def request(image: tuple[int, ...] = (2, 2), scale: tuple[int, ...] = (2, 1)) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="m")
    message.inputs.add(name="image", datatype="FP32", shape=image)
    message.inputs.add(name="scale", datatype="INT64", shape=scale)
    message.raw_input_contents.append(np.arange(np.prod(image), dtype="<f4").tobytes())
    message.raw_input_contents.append(np.arange(np.prod(scale), dtype="<i8").tobytes())
    return message


def check(signature: Signature, message: pb.ModelInferRequest) -> Work:
    made = plan(signature, message)
    return made.work(made.view(message.raw_input_contents))


def test_a_fitting_request_becomes_views_in_the_signatures_order() -> None:
    message = request()
    message.inputs.reverse()
    raw = [np.array([[7], [8]], "<i8").tobytes(), np.arange(4, dtype="<f4").tobytes()]
    made = plan(SIGNATURE, message)
    work = made.work(made.view(raw))
    assert list(work.inputs) == ["image", "scale"]
    assert work.inputs["scale"].tolist() == [[7], [8]]
    assert np.shares_memory(work.inputs["image"], np.frombuffer(raw[1], np.uint8))
    assert (work.size, work.shape_key, made.outputs, work.timeout_seconds) == (2, ((2,), (1,)), (0, 1), None)


def test_outputs_come_in_the_order_they_are_asked_for() -> None:
    message = request()
    message.outputs.add(name="label")
    message.outputs.add(name="logits")
    assert plan(SIGNATURE, message).outputs == (1, 0)


def test_the_queue_timeout_is_in_microseconds_and_the_priority_goes_along() -> None:
    message = request()
    message.parameters["timeout"].int64_param = 2_500_000
    message.parameters["priority"].uint64_param = 1
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    message.parameters["anything"].string_param = "of the caller's own"
    work = check(SIGNATURE, message)
    assert (work.timeout_seconds, work.priority) == (2.5, 1)
    assert check(SIGNATURE, request()).priority == 0


def _unknown_input(m: pb.ModelInferRequest) -> None:
    m.inputs[0].name = "imagine"


def _missing_input(m: pb.ModelInferRequest) -> None:
    del m.inputs[1], m.raw_input_contents[1]


def _extra_input(m: pb.ModelInferRequest) -> None:
    m.inputs.add(name="extra", datatype="FP32", shape=[1])


def _twice(m: pb.ModelInferRequest) -> None:
    m.inputs.append(m.inputs[0])
    m.raw_input_contents.append(m.raw_input_contents[0])


def _datatype(m: pb.ModelInferRequest) -> None:
    m.inputs[0].datatype = "INT32"


def _rank(m: pb.ModelInferRequest) -> None:
    m.inputs[0].shape[:] = [4]


def _extent(m: pb.ModelInferRequest) -> None:
    m.inputs[0].shape[:] = [1, 4]


def _bytes(m: pb.ModelInferRequest) -> None:
    m.raw_input_contents[0] = b"123"


def _entries(m: pb.ModelInferRequest) -> None:
    del m.raw_input_contents[1]


def _huge(m: pb.ModelInferRequest) -> None:
    m.inputs[0].shape[:] = [2**40, 2]


def _negative(m: pb.ModelInferRequest) -> None:
    m.inputs[0].shape[:] = [-1, 2]


def _output(m: pb.ModelInferRequest) -> None:
    m.outputs.add(name="probabilities")


def _output_twice(m: pb.ModelInferRequest) -> None:
    m.outputs.add(name="label")
    m.outputs.add(name="label")


def _reserved(m: pb.ModelInferRequest) -> None:
    m.parameters["triton_final"].bool_param = True


def _priority(m: pb.ModelInferRequest) -> None:
    m.parameters["priority"].string_param = "high"


def _queue_timeout(m: pb.ModelInferRequest) -> None:
    m.parameters["timeout"].int64_param = -5


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_unknown_input, "unknown input 'imagine'; the model has image, scale"),
        (_missing_input, "missing input 'scale'; got image"),
        (_extra_input, "unknown input 'extra'"),
        (_twice, "'image' is given twice"),
        (_datatype, "input 'image' is FP32, got INT32"),
        (_rank, r"input 'image' has shape \[-1, 2\], got \[4\]"),
        (_extent, r"input 'image' has shape \[-1, 2\], got \[1, 4\]"),
        (_bytes, r"tensor 'image': FP32 of shape \[2, 2\] takes 16 bytes, got 3"),
        (_entries, "2 tensors .* but 1 raw contents"),
        (_huge, "image has 1099511627776, scale has 2"),
        (_negative, r"'image': shape \[-1, 2\] has a negative extent"),
        (_output, "unknown output 'probabilities'; the model has logits, label"),
        (_output_twice, "asked for twice"),
        (_reserved, "'triton_final'.* reserved"),
        (_priority, "'priority' is an integer >= 0, got 'high'"),
        (_queue_timeout, "'timeout' is an integer of microseconds >= 0, got -5"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_does_not_fit_is_named(spoil: Callable[[pb.ModelInferRequest], None], text: str) -> None:
    message = request()
    spoil(message)
    with pytest.raises((InvalidRequestError, TensorError), match=text):
        check(SIGNATURE, message)


@pytest.mark.parametrize(
    ("image", "scale", "text"),
    [
        ((2, 2), (1, 1), "differ in batch size: image has 2, scale has 1"),
        ((5, 2), (5, 1), "batch of 5 samples, the model takes 1 to 4"),
        ((0, 2), (0, 1), "batch of 0 samples"),
    ],
)
def test_batch_sizes(image: tuple[int, ...], scale: tuple[int, ...], text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        check(SIGNATURE, request(image, scale))


def test_without_a_batch_axis_a_request_is_one_sample() -> None:
    signature = Signature((TensorSpec("x", "FP32", (3,)),), (TensorSpec("y", "FP32", (3,)),), 0)
    message = pb.ModelInferRequest()
    message.inputs.add(name="x", datatype="FP32", shape=[3])
    assert plan(signature, message).size == 1


def test_sequences_are_not_served() -> None:
    message = request()
    message.parameters["sequence_id"].int64_param = 7
    with pytest.raises(UnimplementedError, match="sequences"):
        check(SIGNATURE, message)
