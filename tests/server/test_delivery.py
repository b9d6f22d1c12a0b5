"""Requests through shared memory, from head to answer: plans that are kept, regions that go, outputs that do not fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import shared_memory as posix
from normserve_proto.tensors import Array, TensorError
from normserve_server import validation
from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError, NotFoundError, UnimplementedError
from normserve_server.inference import RequestReader, serialize_response
from normserve_server.instance import Instance
from normserve_server.plans import Planned, Plans
from normserve_server.regions import Regions
from normserve_server.servable import DYNAMIC, Signature, TensorSpec
from normserve_server.shared_memory import Region
from normserve_server.statistics import Statistics
from normserve_server.validation import Plan, Work
from normserve_server.version import READY, Version

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "FP32", (DYNAMIC, 2)), TensorSpec("s", "BYTES", (DYNAMIC, 1))),
    outputs=(TensorSpec("y", "FP32", (DYNAMIC, DYNAMIC)), TensorSpec("z", "BYTES", (DYNAMIC, 1))),
    max_batch_size=8,
)
TEXTS = b"\3\0\0\0abc\1\0\0\0d"


class FakeVersion(Version):
    """A version that is ready and has nothing behind it but a signature, statistics and labels."""

    signature = SIGNATURE  # type: ignore[assignment]
    statistics = Statistics()  # type: ignore[assignment]
    class_labels: Mapping[str, tuple[str, ...]] = {"y": ("cat", "dog")}  # type: ignore[assignment]

    def plan(self, message: pb.ModelInferRequest) -> Plan:
        return validation.plan(SIGNATURE, message)


@dataclass
class FakeRepository:
    changes: int = 0
    lookups: int = 0

    def serving(self, model: str, number: str) -> Version:
        self.lookups += 1
        return FakeVersion("m", "1", Path(), READY)


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An object of 4096 bytes: x at 0, its texts at 100."""
    monkeypatch.setattr(posix, "FOLDER", str(tmp_path))
    path = tmp_path / "object"
    content = np.zeros(4096, np.uint8)
    content[:16] = np.array([[1, 2], [3, 4]], "<f4").view(np.uint8).reshape(-1)
    content[100 : 100 + len(TEXTS)] = np.frombuffer(TEXTS, np.uint8)
    path.write_bytes(content.tobytes())
    return path


@pytest.fixture
def regions(memory: Path) -> Regions:
    made = Regions(allowed=True)
    made.add(Region("r", "/object", 0, 4096))
    return made


@pytest.fixture
def repository() -> FakeRepository:
    return FakeRepository()


@pytest.fixture
def plans(repository: FakeRepository, regions: Regions) -> Plans:
    return Plans(repository, regions)  # type: ignore[arg-type]


def put(tensor, offset: int, byte_size: int, region: str = "r") -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_offset"].int64_param = offset
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size


def request(*, x: bool = True, s: bool = True) -> pb.ModelInferRequest:
    """A request whose x, s or both are in shared memory, and the others' bytes in the message."""
    message = pb.ModelInferRequest(model_name="m", id="7")
    image = message.inputs.add(name="x", datatype="FP32", shape=[2, 2])
    text = message.inputs.add(name="s", datatype="BYTES", shape=[2, 1])
    if x:
        put(image, 0, 16)
    else:
        message.raw_input_contents.append(np.array([[5, 6], [7, 8]], "<f4").tobytes())
    if s:
        put(text, 100, len(TEXTS))
    else:
        message.raw_input_contents.append(b"\1\0\0\0y\1\0\0\0z")
    return message


def find(plans: Plans, message: pb.ModelInferRequest) -> tuple[Planned, Work]:
    return plans.find(RequestReader()(message.SerializeToString()), Call("ModelInfer"))


@pytest.mark.parametrize(("x", "s"), [(True, True), (True, False), (False, True)])
def test_raw_contents_are_taken_by_the_others_and_heads_are_kept(
    plans: Plans, repository: FakeRepository, x: bool, s: bool
) -> None:
    for _ in range(2):
        _, work = find(plans, request(x=x, s=s))
        assert list(work.inputs) == ["x", "s"]
        assert work.inputs["x"].tolist() == ([[1, 2], [3, 4]] if x else [[5, 6], [7, 8]])
        assert work.inputs["s"].tolist() == ([[b"abc"], [b"d"]] if s else [[b"y"], [b"z"]])
    assert repository.lookups == 1


def test_typed_contents_beside_shared_memory(plans: Plans) -> None:
    message = request(s=False)
    del message.raw_input_contents[:]
    message.inputs[1].contents.bytes_contents[:] = [b"p", b"q"]
    _, work = find(plans, message)
    assert work.inputs["s"].tolist() == [[b"p"], [b"q"]]
    assert work.inputs["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("kept", [False, True])
def test_raw_contents_for_what_is_in_shared_memory_are_refused(plans: Plans, kept: bool) -> None:
    if kept:
        find(plans, request())
    message = request()
    message.raw_input_contents.append(bytes(16))
    with pytest.raises(TensorError, match=r"0 tensors \[\] but 1 raw contents"):
        find(plans, message)


def test_a_kept_head_notices_that_its_region_is_gone_or_another(plans: Plans, regions: Regions, memory: Path) -> None:
    find(plans, request())
    regions.remove("r")
    with pytest.raises(NotFoundError, match="no shared memory region 'r'"):
        find(plans, request())
    memory.with_name("second").write_bytes(memory.read_bytes()[::-1])
    regions.add(Region("r", "second", 0, 4096))
    assert find(plans, request(s=False))[1].inputs["x"].tolist() == [[0, 0], [0, 0]]


def test_where_it_is_off_a_request_says_so(repository: FakeRepository) -> None:
    with pytest.raises(UnimplementedError, match="allow_shared_memory is false"):
        find(Plans(repository, Regions(allowed=False)), request())  # type: ignore[arg-type]


def test_bytes_that_are_none_and_places_outside_never_reach_a_queue(plans: Plans) -> None:
    spoiled = request()
    put(spoiled.inputs[1], 101, len(TEXTS))
    with pytest.raises(TensorError, match="BYTES element 0 ends at byte"):
        find(plans, spoiled)
    for tensor in ("input", "output"):
        outside = request()
        put(outside.inputs[0] if tensor == "input" else outside.outputs.add(name="y"), 4090, 16)
        with pytest.raises(InvalidRequestError, match="region 'r' has 4096 bytes"):
            find(plans, outside)


class Echo:
    """A servable that answers with its input."""

    signature = SIGNATURE
    provider = "none"

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        return [inputs["x"], inputs["s"]]


@pytest.mark.parametrize("members", [1, 2])
def test_a_model_gets_copies_as_they_were_when_the_run_began(plans: Plans, memory: Path, members: int) -> None:
    def write(number: float) -> None:
        with memory.open("r+b") as file:
            file.write(np.array([number], "<f4").tobytes())

    works = [find(plans, request())[1] for _ in range(members)]
    write(9)
    (run,) = Instance(Echo(), None).run(works)  # type: ignore[arg-type]
    write(10)
    for outcome in run.outcomes:
        assert not isinstance(outcome, BaseException)
        assert outcome[0].tolist() == [[9, 2], [3, 4]]
        assert outcome[1].tolist() == [[b"abc"], [b"d"]]


def test_texts_beside_numbers_at_an_odd_place_of_a_message() -> None:
    x = np.frombuffer(memoryview(bytes(17))[1:], "<f4").reshape(2, 2)
    assert not x.flags.aligned
    work = Work({"x": x, "s": np.array([[b"a"], [b"b"]], object)}, 2, ((2,), (1,)), None)
    (outcome,) = Instance(Echo(), None).run([work])[0].outcomes  # type: ignore[arg-type]
    assert not isinstance(outcome, BaseException)
    assert (outcome[0].tolist(), outcome[1].tolist()) == ([[0, 0], [0, 0]], [[b"a"], [b"b"]])


def test_a_member_whose_object_has_shrunk_fails_alone(plans: Plans, regions: Regions, memory: Path) -> None:
    memory.with_name("second").write_bytes(memory.read_bytes())
    regions.add(Region("other", "second", 0, 4096))
    fine, spoiled = request(s=False), request(s=False)
    put(spoiled.inputs[0], 0, 16, "other")
    batch = [find(plans, message)[1] for message in (fine, spoiled, fine)]
    memory.with_name("second").write_bytes(b"")
    first, second, third = (run.outcomes[0] for run in Instance(Echo(), None).run(batch))  # type: ignore[arg-type]
    assert isinstance(second, InvalidRequestError)
    for outcome in (first, third):
        assert not isinstance(outcome, BaseException)
        assert outcome[0].tolist() == [[1, 2], [3, 4]]


def outputs(rows: int = 2) -> list[Array]:
    return [np.arange(rows * 3, dtype=np.float32).reshape(rows, 3), np.array([["ab"]] * rows, object)]


def answer(planned: Planned, work: Work, rows: int = 2) -> pb.ModelInferResponse:
    return pb.ModelInferResponse.FromString(serialize_response(planned.answer(work, outputs(rows))))


def test_outputs_go_where_they_were_to_go(plans: Plans, regions: Regions, memory: Path) -> None:
    message = request()
    put(message.outputs.add(name="z"), 200, 50)
    put(message.outputs.add(name="y"), 1000, 100)
    planned, work = find(plans, message)
    regions.remove("r")  # which is no business of who uses it
    response = answer(planned, work)
    assert (response.id, [(o.name, o.datatype, list(o.shape)) for o in response.outputs]) == (
        "7", [("z", "BYTES", [2, 1]), ("y", "FP32", [2, 3])],
    )  # fmt: skip
    told = [
        {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in o.parameters.items()}
        for o in response.outputs
    ]
    assert told == [
        {"shared_memory_region": "r", "shared_memory_offset": 200, "shared_memory_byte_size": 12},
        {"shared_memory_region": "r", "shared_memory_offset": 1000, "shared_memory_byte_size": 24},
    ]
    assert list(response.raw_output_contents) == [b"", b""]
    content = memory.read_bytes()
    assert content[200:213] == b"\2\0\0\0ab\2\0\0\0ab\0"
    assert np.frombuffer(content[1000:1024], "<f4").tolist() == [0, 1, 2, 3, 4, 5]


def test_an_output_may_take_its_inputs_place(plans: Plans, memory: Path) -> None:
    message = request(s=False)
    put(message.outputs.add(name="y"), 0, 16)
    planned, work = find(plans, message)
    (echoed,) = Instance(Echo(), None).run([work])[0].outcomes  # type: ignore[arg-type]
    assert not isinstance(echoed, BaseException)
    planned.answer(work, [echoed[0] * 2, echoed[1]])
    assert np.frombuffer(memory.read_bytes()[:16], "<f4").tolist() == [2, 4, 6, 8]


def test_outputs_that_overlap_are_refused(plans: Plans, regions: Regions) -> None:
    regions.add(Region("alias", "object", 96, 4000))
    message = request()
    put(message.outputs.add(name="y"), 100, 50)
    put(message.outputs.add(name="z"), 50, 4, "alias")
    with pytest.raises(InvalidRequestError, match="outputs overlap in shared memory"):
        find(plans, message)
    put(message.outputs[1], 54, 4, "alias")
    assert find(plans, message)


def test_an_output_that_does_not_fit_leaves_everything_as_it_was(plans: Plans, memory: Path) -> None:
    message = request()
    put(message.outputs.add(name="z"), 200, 60)
    put(message.outputs.add(name="y"), 1000, 100)
    planned, work = find(plans, message)
    before = memory.read_bytes()
    with pytest.raises(InvalidRequestError, match="output 'y' takes 108 bytes, got shared_memory_byte_size 100"):
        answer(planned, work, rows=9)
    assert memory.read_bytes() == before


def test_classes_with_labels_beside_elements(plans: Plans) -> None:
    message = request(x=False, s=False)
    message.outputs.add(name="z")
    message.outputs.add(name="y").parameters["classification"].int64_param = 2
    for _ in range(2):
        response = answer(*find(plans, message))
        assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
            ("z", "BYTES", [2, 1]),
            ("y", "BYTES", [2, 2]),
        ]
        assert response.raw_output_contents[0] == b"\2\0\0\0ab\2\0\0\0ab"
        assert response.raw_output_contents[1] == b"".join(
            len(text).to_bytes(4, "little") + text
            for text in (b"2.000000:2", b"1.000000:1:dog", b"5.000000:2", b"4.000000:1:dog")
        )


def test_too_many_classes_of_a_shape_that_only_the_run_tells(plans: Plans) -> None:
    message = request(x=False, s=False)
    message.outputs.add(name="y").parameters["classification"].int64_param = 2**40
    planned, work = find(plans, message)
    wide = [np.zeros((2, 50_001), np.float32), outputs()[1]]
    with pytest.raises(InvalidRequestError, match=r"output 'y': .* at most 100000 results, got .* which are 100002"):
        planned.answer(work, wide)
