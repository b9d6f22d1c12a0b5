"""Callers of the digits network that go on calling while something else happens, and hold the server to its answers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub

ALONE = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


def request(number: int) -> pb.ModelInferRequest:
    """Asks for the digits in two images; each number's are other images."""
    images = np.random.default_rng(number).random((2, 1, 8, 8), np.float32)
    message = pb.ModelInferRequest(model_name="digits", id=str(number), raw_input_contents=[images.tobytes()])
    message.inputs.add(name="image", datatype="FP32", shape=images.shape)
    return message


@dataclass
class Caller:
    """One of them, its answers and its errors; its images are its own, and so must be the answers."""

    number: int
    sent: int = 0
    answers: list[pb.ModelInferResponse] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def go_on(self, address: str, stop: threading.Event) -> None:
        asked = request(self.number)
        with grpc.insecure_channel(address, ALONE) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not stop.wait(0.005):
                self.sent += 1
                try:
                    self.answers.append(stub.ModelInfer(asked, timeout=20))
                except grpc.RpcError as error:
                    self.errors.append(f"{error.code()} {error.details()}")

    def check(self) -> None:
        assert not self.errors, self.errors[:3]
        assert len(self.answers) == self.sent
        logits = np.array([np.frombuffer(answer.raw_output_contents[0], "<f4") for answer in self.answers])
        np.testing.assert_allclose(logits, np.broadcast_to(logits[0], logits.shape), rtol=1e-4, atol=1e-4)
        assert {answer.id for answer in self.answers} == {str(self.number)}


class Load:
    """All of them."""

    def __init__(self, callers: int) -> None:
        self.callers = [Caller(number) for number in range(callers)]

    def goes_on(self, answers: int = 10, seconds: float = 20) -> None:
        """Waits until each has had so many answers more."""
        wanted = [len(caller.answers) + answers for caller in self.callers]
        deadline = time.monotonic() + seconds
        while any(len(caller.answers) < most for caller, most in zip(self.callers, wanted, strict=True)):
            assert time.monotonic() < deadline, [(caller.sent, len(caller.answers), caller.errors) for caller in self.callers]
            time.sleep(0.01)


@contextmanager
def background_load(address: str, callers: int = 2) -> Iterator[Load]:
    """Calls before, during and after what is done within; in the end every call must have had its own right answer."""
    load, stop = Load(callers), threading.Event()
    threads = [threading.Thread(target=caller.go_on, args=(address, stop)) for caller in load.callers]
    for thread in threads:
        thread.start()
    try:
        load.goes_on()
        yield load
        load.goes_on()
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    for caller in load.callers:
        caller.check()
    assert len({caller.answers[0].raw_output_contents[0] for caller in load.callers}) == callers
