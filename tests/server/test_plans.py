"""What is kept of a head must never make a difference that a caller could see."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import TensorError
from normserve_server import plans, validation
from normserve_server.calls import Call
from normserve_server.errors import NotFoundError, ServiceError
from normserve_server.inference import RequestReader
from normserve_server.plans import Plans
from normserve_server.regions import Regions
from normserve_server.servable import DYNAMIC, Signature, TensorSpec
from normserve_server.statistics import Statistics
from normserve_server.validation import Plan
from normserve_server.version import READY, Version

READER = RequestReader()  # with all that it keeps
SIGNATURE = Signature((TensorSpec("x", "FP32", (DYNAMIC, 2)),), (TensorSpec("y", "FP32", (DYNAMIC, 2)),), 4)


class FakeVersion(Version):
    """A version that is ready and has nothing behind it but a signature and statistics."""

    signature = SIGNATURE  # type: ignore[assignment]
    statistics = Statistics()  # type: ignore[assignment]

    def plan(self, message: pb.ModelInferRequest) -> Plan:
        return validation.plan(SIGNATURE, message)


@dataclass
class FakeRepository:
    changes: int = 0
    found: dict[str, Version] = field(default_factory=lambda: {"m": FakeVersion("m", "1", Path(), READY)})
    lookups: int = 0

    def serving(self, model: str, number: str) -> Version:
        self.lookups += 1
        if model not in self.found:
            raise NotFoundError(model)
        return self.found[model]


@pytest.fixture
def repository() -> FakeRepository:
    return FakeRepository()


@pytest.fixture
def made(repository: FakeRepository) -> Plans:
    return Plans(repository, Regions(allowed=False))  # type: ignore[arg-type]


def message(values: list[float], request_id: str = "", model: str = "m") -> bytes:
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    request.inputs.add(name="x", datatype="FP32", shape=[len(values) // 2, 2])
    request.raw_input_contents.append(np.array(values, "<f4").tobytes())
    return request.SerializeToString()


def find(made: Plans, data: bytes) -> tuple[plans.Planned, validation.Work, Call]:
    call = Call("ModelInfer")
    planned, work = made.find(READER(data), call)
    return planned, work, call


def test_a_head_is_looked_at_once_and_every_content_is_its_own(made: Plans, repository: FakeRepository) -> None:
    first, work, _ = find(made, message([1, 2]))
    again, other, call = find(made, message([3, 4]))
    assert again is first
    assert repository.lookups == 1
    assert (work.inputs["x"].tolist(), other.inputs["x"].tolist()) == ([[1, 2]], [[3, 4]])
    assert (call.model, call.version) == ("m", "1")


def test_a_change_of_the_repository_makes_all_heads_new(made: Plans, repository: FakeRepository) -> None:
    find(made, message([1, 2]))
    repository.changes += 1
    del repository.found["m"]
    with pytest.raises(NotFoundError):
        find(made, message([1, 2]))


def test_a_known_head_with_wrong_content_is_refused(made: Plans) -> None:
    find(made, message([1, 2]))
    short = pb.ModelInferRequest.FromString(message([1, 2]))
    short.raw_input_contents[0] = b"123"
    with pytest.raises(TensorError, match="takes 8 bytes, got 3"):
        find(made, short.SerializeToString())
    del short.raw_input_contents[:]
    with pytest.raises(TensorError, match=r"1 tensors .* but 0 raw contents"):
        find(made, short.SerializeToString())


def test_contents_beside_raw_contents_are_refused(made: Plans) -> None:
    both = pb.ModelInferRequest.FromString(message([1, 2]))
    both.inputs[0].contents.fp32_contents[:] = [1, 2]
    with pytest.raises(TensorError, match="contents although"):
        find(made, both.SerializeToString())


def test_typed_contents_are_not_kept(made: Plans, repository: FakeRepository) -> None:
    for values in ([1.0, 2.0], [3.0, 4.0]):
        typed = pb.ModelInferRequest(model_name="m")
        typed.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents[:] = values
        assert find(made, typed.SerializeToString())[1].inputs["x"].tolist() == [values]
    assert repository.lookups == 2


def test_answers_carry_the_requests_id_and_each_shape(made: Plans) -> None:
    for request_id, rows in (("a", 1), ("b", 2), ("a", 3)):
        planned, _, _ = find(made, message([0, 0], request_id))
        answer = pb.ModelInferResponse.FromString(planned.answer_head([np.zeros((rows, 2), np.float32)]))
        assert (answer.id, list(answer.outputs[0].shape), answer.outputs[0].datatype) == (request_id, [rows, 2], "FP32")


def test_what_is_kept_is_bounded(made: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MOST_HEADS", 10)
    for number in range(100):
        find(made, message([0, 0], str(number)))
        assert len(made._known) <= 10
    find(made, message([0, 0], "x" * plans.MOST_HEAD_BYTES))
    assert all(len(head) <= plans.MOST_HEAD_BYTES for head in made._known)


@given(st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=3), st.booleans()), max_size=4))
def test_the_second_time_is_like_the_first(edits: list[tuple[int, bytes, bool]]) -> None:
    """Whatever a message has become, keeping heads changes neither its result nor its refusal."""
    data = message([1, 2])
    for position, junk, cut in edits:
        data = data[:position] + junk + data[position + (len(junk) if cut else 0) :]
    made = Plans(FakeRepository(), Regions(allowed=False))  # type: ignore[arg-type]

    def outcome() -> object:
        try:
            return find(made, data)[1].inputs["x"].tolist()
        except (DecodeError, TensorError, ServiceError) as error:
            return type(error)

    assert repr(outcome()) == repr(outcome())  # NaN is no reason to differ
