"""The steps of an inference through shared memory, taken by hand: what is sent and kept, and when the connection is used."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from normserve import errors, placement, requests, slots
from normserve.shared_memory import SharedMemory, SharedMemoryWarning
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import shared_memory as posix

BIG = np.arange(20_000, dtype=np.float32)


class Server:
    """Answers calls as a server would: `double` on the connection or through the one region that it needs to know."""

    def __init__(self) -> None:
        self.regions: dict[str, int] = {}
        self.log: list[str] = []
        self.fail: dict[str, list[errors.NormserveError]] = {}
        self.version = "1"
        self.repeat = 1
        self.outputs = ["y"]

    def answer(self, call: requests.Call) -> object:
        verb = call.method.rpartition("/")[2].removeprefix("SystemSharedMemory")
        failures = self.fail.get(verb)
        if failures:
            self.log.append(f"{verb} failed")
            raise failures.pop(0)
        return getattr(self, verb)(call)

    def Register(self, call: requests.Call) -> object:  # noqa: N802
        message = pb.SystemSharedMemoryRegisterRequest.FromString(call.request)
        self.regions[message.name] = posix.open_object(message.key)
        assert os.fstat(self.regions[message.name]).st_size == message.byte_size
        self.log.append("register")
        return call.read(b"")

    def Unregister(self, call: requests.Call) -> object:  # noqa: N802
        name = pb.SystemSharedMemoryUnregisterRequest.FromString(call.request).name
        if name not in self.regions:
            raise errors.NotFoundError(name)
        os.close(self.regions.pop(name))
        self.log.append("unregister")
        return call.read(b"")

    def ModelInfer(self, call: requests.Call) -> object:  # noqa: N802
        message = pb.ModelInferRequest.FromString(call.request)
        (tensor,) = message.inputs
        raw = message.raw_input_contents[0] if message.raw_input_contents else self.at(tensor)
        y = np.tile(np.frombuffer(raw, np.float32) * 2, self.repeat)
        response = pb.ModelInferResponse(model_version=self.version)
        response.outputs.add(name="y", datatype="FP32", shape=y.shape)
        (output,) = message.outputs or (pb.ModelInferRequest.InferRequestedOutputTensor(),)
        if output.parameters:
            if y.nbytes > output.parameters["shared_memory_byte_size"].int64_param:
                self.log.append("too large")
                raise errors.InvalidArgumentError("too large")
            os.pwrite(*self.place(output)[:1], y.tobytes(), self.place(output)[1])
        response.raw_output_contents.append(b"" if output.parameters else y.tobytes())
        self.log.append(f"infer {len(call.request) // 10_000} {response.ByteSize() // 10_000}")
        return call.read(response.SerializeToString())

    def ModelMetadata(self, call: requests.Call) -> object:  # noqa: N802
        self.log.append("metadata")
        tensors = [pb.ModelMetadataResponse.TensorMetadata(name=name, datatype="FP32") for name in self.outputs]
        return call.read(pb.ModelMetadataResponse(outputs=tensors).SerializeToString())

    def place(self, tensor) -> tuple[int, int, int]:
        name = tensor.parameters["shared_memory_region"].string_param
        if name not in self.regions:
            raise errors.NotFoundError(f"no region '{name}'")
        sizes = (tensor.parameters[f"shared_memory_{key}"].int64_param for key in ("offset", "byte_size"))
        return self.regions[name], *sizes

    def at(self, tensor) -> bytes:
        descriptor, offset, size = self.place(tensor)
        return os.pread(descriptor, size, offset)

    def forget(self) -> None:
        """What a server that is started again does."""
        while self.regions:
            os.close(self.regions.popitem()[1])

    def took(self) -> list[str]:
        log, self.log = self.log, []
        return log


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.forget()
    gc.collect()


@pytest.fixture(autouse=True)
def no_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Objects have no name longer than a server needs to open them."""
    monkeypatch.setattr(posix, "FOLDER", str(tmp_path))
    yield
    assert not list(tmp_path.iterdir())


@pytest.fixture
def shared() -> SharedMemory:
    return SharedMemory()


def follow(steps, server: Server) -> object:
    """What a client does, without the time."""
    try:
        call = next(steps)
        while True:
            try:
                answer = server.answer(call)
            except errors.NormserveError as error:
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


def infer(shared: SharedMemory, server: Server, x: np.ndarray = BIG, **arguments: object) -> np.ndarray:
    outputs = follow(shared.infer(requests.infer("m", {"x": x}, **arguments)), server)
    np.testing.assert_array_equal(outputs["y"], np.tile(x * 2, server.repeat))
    return outputs["y"]


PLAIN = "infer 8 8"
FIRST = ["register", "infer 0 8"]  # nobody knows yet how large the output is
NEXT = ["infer 0 0"]


def test_the_first_answer_tells_what_room_the_next_ones_take(shared: SharedMemory, server: Server) -> None:
    infer(shared, server)
    assert server.took() == FIRST
    infer(shared, server)
    assert server.took() == ["unregister", *FIRST[:1], *NEXT]  # grown, because both have to fit
    infer(shared, server)
    assert server.took() == NEXT


def test_answers_that_are_kept_are_not_written_over(
    shared: SharedMemory, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "MOST_LENT", 2)
    warm(shared, server)
    kept = [infer(shared, server, BIG + number) for number in range(5)]
    assert server.took() == [*NEXT, "register", *NEXT, "register", *NEXT * 3]  # the third slot is copied from
    for number, answer in enumerate(kept):
        assert not answer.flags.writeable
        np.testing.assert_array_equal(answer, (BIG + number) * 2)
    kept.clear()
    infer(shared, server)
    assert server.took() == NEXT


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (["y"], ["metadata", *NEXT]),
        (["y", "z"], ["metadata", "infer 0 8"]),
        (None, ["ModelMetadata failed", "infer 0 8"]),
    ],
)
def test_what_outputs_there_are_is_asked_for_now_and_then(
    shared: SharedMemory, server: Server, outputs, expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normserve.shared_memory.MOST_NAMED", 2)
    warm(shared, server)
    infer(shared, server)
    assert server.took()[-1:] == NEXT
    server.outputs = outputs
    server.fail["ModelMetadata"] = [] if outputs else [errors.UnavailableError("busy")]
    infer(shared, server)
    infer(shared, server)
    assert server.took() == [*expected, *NEXT]


def test_small_tensors_go_into_the_message(shared: SharedMemory, server: Server) -> None:
    small = np.zeros(placement.SMALLEST_BYTES // 4 - 1, np.float32)
    for _ in range(2):
        infer(shared, server, small)
    assert server.took() == ["infer 6 6"] * 2


def warm(shared: SharedMemory, server: Server, **arguments: object) -> None:
    infer(shared, server, **arguments)
    infer(shared, server, **arguments)
    assert server.took()[-1:] == NEXT


def test_an_output_that_has_grown_comes_through_the_connection_once(shared: SharedMemory, server: Server) -> None:
    warm(shared, server)
    server.repeat = 2
    infer(shared, server)
    assert server.took() == ["too large", "infer 8 16"]
    infer(shared, server)
    assert server.took()[-1:] == NEXT


def test_what_is_wrong_with_a_request_is_said(shared: SharedMemory, server: Server) -> None:
    server.fail["ModelInfer"] = [errors.InvalidArgumentError("wrong")]
    with pytest.raises(errors.InvalidArgumentError, match="wrong"):
        infer(shared, server)
    warm(shared, server)
    server.fail["ModelInfer"] = [errors.InvalidArgumentError("wrong")] * 2  # through shared memory, and without it
    with pytest.raises(errors.InvalidArgumentError, match="wrong"):
        infer(shared, server)


@pytest.mark.parametrize(("arguments", "expected"), [({}, [*NEXT, PLAIN]), ({"outputs": ["y"]}, NEXT)])
def test_a_new_version_is_asked_for_all_of_its_outputs(shared: SharedMemory, server: Server, arguments, expected) -> None:
    warm(shared, server, **arguments)
    server.version = "2"
    infer(shared, server, **arguments)
    assert server.took() == expected
    infer(shared, server, **arguments)
    assert server.took() == NEXT


def test_a_server_that_was_started_again_is_told_again(shared: SharedMemory, server: Server) -> None:
    warm(shared, server)
    server.forget()
    infer(shared, server)
    assert server.took() == ["register", *NEXT]


def test_a_server_that_forgets_at_once_is_left_in_peace(shared: SharedMemory, server: Server) -> None:
    lost = server.ModelInfer

    def forgetful(call: requests.Call) -> object:
        server.forget()
        return lost(call)

    server.ModelInfer = forgetful  # type: ignore[method-assign]
    with pytest.warns(SharedMemoryWarning, match="the server forgets what was registered"):
        infer(shared, server)
    infer(shared, server)
    assert server.took() == ["register", "register", PLAIN, PLAIN]


def test_a_model_that_is_not_there_is_no_region_that_is_not_there(shared: SharedMemory, server: Server) -> None:
    server.fail["ModelInfer"] = [errors.NotFoundError("no model 'm'")]
    with pytest.raises(errors.NotFoundError, match="no model"):
        infer(shared, server)
    assert server.took() == ["register", "ModelInfer failed"]


@pytest.mark.parametrize(
    "error",
    [
        errors.UnimplementedError("shared memory is off"),
        errors.NotFoundError("there is no object"),
        errors.InvalidArgumentError("cannot be opened"),
        errors.AccessError("who are you?"),
    ],
)
def test_a_server_that_refuses_is_asked_once(shared: SharedMemory, server: Server, error: errors.NormserveError) -> None:
    server.fail["Register"] = [error]
    with pytest.warns(SharedMemoryWarning, match=f"through the connection: the server says: {error.message}"):
        infer(shared, server)
    infer(shared, server)
    assert server.took() == ["Register failed", PLAIN, PLAIN]


def test_a_server_that_is_not_there_now_is_asked_again(shared: SharedMemory, server: Server) -> None:
    server.fail["Register"] = [errors.UnavailableError("starting")]
    infer(shared, server)
    infer(shared, server)
    assert server.took() == ["Register failed", PLAIN, "register", *NEXT]


def test_a_machine_without_shared_memory(shared: SharedMemory, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix, "FOLDER", "/no/such/folder")
    with pytest.warns(SharedMemoryWarning, match="no shared memory of 80000 bytes here: No such file"):
        infer(shared, server)
    infer(shared, server)
    assert server.took() == [PLAIN, PLAIN]


def test_a_warning_that_is_an_error_leaves_nothing_behind(shared: SharedMemory, server: Server) -> None:
    server.fail["Register"] = [errors.UnimplementedError("off")]
    with pytest.raises(SharedMemoryWarning):  # as all of them are in these tests
        infer(shared, server)


@pytest.mark.parametrize("how", ["failed", "given up"])
def test_a_slot_that_a_server_may_still_write_into_is_used_no_more(shared: SharedMemory, server: Server, how: str) -> None:
    warm(shared, server)
    (before,) = server.regions
    if how == "failed":
        server.fail["ModelInfer"] = [errors.DeadlineExceededError("late")]
        with pytest.raises(errors.DeadlineExceededError):
            infer(shared, server)
    else:
        steps = shared.infer(requests.infer("m", {"x": BIG}))
        next(steps)
        steps.close()
    infer(shared, server)
    assert before not in server.regions
    assert server.took()[-3:] == ["unregister", "register", *NEXT]


def test_taking_leave(shared: SharedMemory, server: Server) -> None:
    warm(shared, server)
    follow(shared.close(), server)
    assert not server.regions


def test_taking_leave_of_nobody(shared: SharedMemory, server: Server) -> None:
    warm(shared, server)
    server.fail["Unregister"] = [errors.UnavailableError("gone")]
    follow(shared.close(), server)
    assert server.took() == ["Unregister failed"]


def test_too_many_at_a_time_use_the_connection(shared: SharedMemory, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MOST_SLOTS", 0)
    infer(shared, server)
    assert server.took() == [PLAIN]


def test_what_is_remembered_is_bounded(shared: SharedMemory, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normserve.shared_memory.MOST_KINDS", 3)
    for size in range(1, 10):
        infer(shared, server, BIG[:size])
        assert len(shared._known) <= 3
