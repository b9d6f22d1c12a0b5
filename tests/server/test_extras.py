"""Parameters of tensors: each that cannot be is refused by name, before anything runs."""

from collections.abc import Callable

import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_server.errors import InvalidRequestError
from normserve_server.servable import DYNAMIC, Signature, TensorSpec
from normserve_server.shared_memory import Place
from normserve_server.validation import Plan, plan

SIGNATURE = Signature(
    inputs=(TensorSpec("image", "FP32", (DYNAMIC, 2)), TensorSpec("text", "BYTES", (DYNAMIC, 1))),
    outputs=(
        TensorSpec("logits", "FP32", (DYNAMIC, 3)),
        TensorSpec("boxes", "FP32", (DYNAMIC, DYNAMIC)),
        TensorSpec("label", "BYTES", (DYNAMIC,)),
        TensorSpec("mask", "BOOL", (DYNAMIC, 2)),
    ),
    max_batch_size=4,
)


def request() -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="m")
    message.inputs.add(name="image", datatype="FP32", shape=[2, 2])
    message.inputs.add(name="text", datatype="BYTES", shape=[2, 1])
    return message


def put(tensor, region: str = "r", byte_size: int = 16, offset: int | None = None) -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset is not None:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def planned(message: pb.ModelInferRequest) -> Plan:
    return plan(SIGNATURE, message)


def test_a_request_that_asks_for_nothing_has_no_extras() -> None:
    message = request()
    message.inputs[0].parameters["binary_data_size"].int64_param = 16  # what others' clients tell each other
    message.outputs.add(name="logits")
    made = planned(message)
    assert made.extras is None
    assert [layout.name for layout in made.layouts] == ["image", "text"]


@pytest.mark.parametrize(
    ("shape", "samples", "count"), [((4, 25_000), 1, 2**40), ((100_000,), 1, 100_000), ((25_000,), 4, 2**63 - 1)]
)
def test_classes_are_bounded_over_all_samples(shape: tuple[int, ...], samples: int, count: int) -> None:
    def signature(first: int) -> Signature:
        outputs = (TensorSpec("y", "FP32", (DYNAMIC, first, *shape[1:])),)
        return Signature((TensorSpec("x", "FP32", (DYNAMIC,)),), outputs, max_batch_size=samples)

    message = pb.ModelInferRequest()
    message.inputs.add(name="x", datatype="FP32", shape=[samples])
    message.outputs.add(name="y").parameters["classification"].int64_param = count
    extras = plan(signature(shape[0]), message).extras
    assert extras is not None
    assert extras.classes == (count,)
    message.outputs[0].parameters["classification"].int64_param = count + 1 if count < 2**40 else count
    with pytest.raises(
        InvalidRequestError, match=r"output 'y': classification gives at most 100000 results, got .* which are 1"
    ):
        plan(signature(shape[0] + 1), message)


def test_what_lies_in_shared_memory_is_not_in_the_message() -> None:
    message = request()
    put(message.inputs[0], "a", offset=64)
    put(message.outputs.add(name="boxes"), "b", 1000)
    message.outputs.add(name="logits").parameters["classification"].int64_param = 2
    made = planned(message)
    assert made.extras is not None
    assert [layout.name for layout in made.layouts] == ["text"]
    assert made.extras.inputs["image"][1] == Place("a", 64, 16)
    assert made.extras.outputs == (Place("b", 0, 1000), None)
    assert made.extras.classes == (0, 2)


def test_without_named_outputs_all_go_into_the_message() -> None:
    message = request()
    put(message.inputs[0])
    extras = planned(message).extras
    assert extras is not None
    assert (extras.outputs, extras.classes) == ((None,) * 4, (0,) * 4)


@pytest.mark.parametrize("size", [0, 5, 16, 10**9])
def test_bytes_may_take_any_room(size: int) -> None:
    message = request()
    put(message.inputs[1], byte_size=size)
    put(message.outputs.add(name="label"), byte_size=size)
    assert planned(message).extras is not None


def _size(m: pb.ModelInferRequest) -> None:
    put(m.inputs[0], byte_size=15)


def _no_size(m: pb.ModelInferRequest) -> None:
    m.inputs[0].parameters["shared_memory_region"].string_param = "r"


def _no_region(m: pb.ModelInferRequest) -> None:
    m.inputs[0].parameters["shared_memory_byte_size"].int64_param = 16


def _only_offset(m: pb.ModelInferRequest) -> None:
    m.inputs[0].parameters["shared_memory_offset"].int64_param = 16


def _region_kind(m: pb.ModelInferRequest) -> None:
    put(m.inputs[0])
    m.inputs[0].parameters["shared_memory_region"].int64_param = 1


def _size_kind(m: pb.ModelInferRequest) -> None:
    put(m.inputs[0])
    m.inputs[0].parameters["shared_memory_byte_size"].string_param = "16"


def _negative_offset(m: pb.ModelInferRequest) -> None:
    put(m.inputs[0], offset=-1)


def _contents(m: pb.ModelInferRequest) -> None:
    put(m.inputs[0])
    m.inputs[0].contents.fp32_contents[:] = [1, 2, 3, 4]


def _output_size(m: pb.ModelInferRequest) -> None:
    put(m.outputs.add(name="logits"), byte_size=23)


def _output_no_size(m: pb.ModelInferRequest) -> None:
    m.outputs.add(name="logits").parameters["shared_memory_region"].string_param = "r"


def _classes(name: str, count: int, region: bool = False) -> Callable[[pb.ModelInferRequest], None]:
    def spoil(m: pb.ModelInferRequest) -> None:
        output = m.outputs.add(name=name)
        output.parameters["classification"].int64_param = count
        if region:
            put(output, byte_size=1000)

    return spoil


def _classes_kind(m: pb.ModelInferRequest) -> None:
    m.outputs.add(name="logits").parameters["classification"].string_param = "2"


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_size, r"input 'image': FP32 of shape \[2, 2\] takes 16 bytes, got shared_memory_byte_size 15"),
        (_no_size, "input 'image': shared_memory_region and .*_byte_size go together, got only shared_memory_region"),
        (_no_region, "input 'image': .* got only shared_memory_byte_size"),
        (_only_offset, "input 'image': .* got only shared_memory_offset"),
        (_region_kind, "input 'image': parameter 'shared_memory_region' is a string, got 1"),
        (_size_kind, "input 'image': parameter 'shared_memory_byte_size' is an integer >= 0, got '16'"),
        (_negative_offset, "input 'image': parameter 'shared_memory_offset' is an integer >= 0, got -1"),
        (_contents, "input 'image' has contents although it is in shared memory"),
        (_output_size, "output 'logits' takes 24 bytes, got shared_memory_byte_size 23"),
        (_output_no_size, "output 'logits': .* got only shared_memory_region"),
        (_classes("logits", 0), "output 'logits': parameter 'classification' is the number of classes, > 0, got 0"),
        (_classes("logits", -1), "output 'logits': parameter 'classification' is an integer >= 0, got -1"),
        (_classes_kind, "output 'logits': parameter 'classification' is an integer >= 0, got '2'"),
        (_classes("label", 2), "output 'label' is BYTES, which has no classes"),
        (_classes("mask", 2), "output 'mask' is BOOL, which has no classes"),
        (_classes("logits", 2, region=True), "output 'logits': classification cannot go into shared memory"),
    ],
)
def test_what_cannot_be_is_refused(spoil: Callable[[pb.ModelInferRequest], None], text: str) -> None:
    message = request()
    spoil(message)
    with pytest.raises(InvalidRequestError, match=text):
        planned(message)
