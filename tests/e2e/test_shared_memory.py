"""Shared memory on the wire: every refusal, and callers that write into it or take it away while it is used."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from normserve.testing import RunningServer
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from normserve_proto.shared_memory import FOLDER

CODES = grpc.StatusCode


@pytest.fixture(scope="module")
def stub(memory_server: RunningServer) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(memory_server.grpc_address) as channel:
        yield GRPCInferenceServiceStub(channel)


class Memory:
    """An object that a test made, and its region."""

    def __init__(self, stub: GRPCInferenceServiceStub, byte_size: int) -> None:
        self.key = f"/normserve-test-{os.getpid()}"
        self.path = Path(FOLDER + self.key)
        self.path.write_bytes(bytes(byte_size))
        self.array = np.memmap(self.path, np.uint8, "r+")
        stub.SystemSharedMemoryRegister(pb.SystemSharedMemoryRegisterRequest(name="t", key=self.key, byte_size=byte_size))


@pytest.fixture
def memory(stub: GRPCInferenceServiceStub) -> Iterator[Memory]:
    made = Memory(stub, 8_000_000)
    yield made
    with contextlib.suppress(grpc.RpcError):
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="t"))
    made.path.unlink()


def placed(model: str, datatype: str, shape: list[int], byte_size: int, region: str = "t") -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model)
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    return message


def refusal(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details()


def test_refusals_of_registering(stub: GRPCInferenceServiceStub, memory: Memory) -> None:
    def register(**fields: object) -> tuple[grpc.StatusCode, str]:
        message = pb.SystemSharedMemoryRegisterRequest(**{"name": "u", "key": memory.key, "byte_size": 8, **fields})
        return refusal(lambda: stub.SystemSharedMemoryRegister(message))

    assert register(name="t") == (CODES.ALREADY_EXISTS, "shared memory region 't' is registered already")
    assert register(name="") == (CODES.INVALID_ARGUMENT, "a shared memory region needs a name")
    assert register(key="/gone")[0] == CODES.NOT_FOUND
    assert register(key="/../etc/passwd")[0] == CODES.INVALID_ARGUMENT
    assert register(offset=8_000_000)[0] == register(byte_size=2**64 - 1)[0] == CODES.INVALID_ARGUMENT
    status = stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name="t")).regions
    assert {name: (r.name, r.key, r.offset, r.byte_size) for name, r in status.items()} == {
        "t": ("t", memory.key, 0, 8_000_000)
    }
    for call in (
        lambda: stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name="u")),
        lambda: stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="u")),
    ):
        assert refusal(call) == (CODES.NOT_FOUND, "no shared memory region 'u' is registered")


def test_refusals_of_inference(stub: GRPCInferenceServiceStub, memory: Memory) -> None:
    for message, code, text in (
        (placed("double", "FP32", [1, 2], 8, "u"), CODES.NOT_FOUND, "no shared memory region 'u' is registered"),
        (placed("double", "FP32", [1, 2], 9), CODES.INVALID_ARGUMENT, "takes 8 bytes, got shared_memory_byte_size 9"),
        (placed("double", "FP32", [1, 3_000_000], 12_000_000), CODES.INVALID_ARGUMENT, "has 8000000 bytes, got"),
    ):
        found = refusal(lambda message=message: stub.ModelInfer(message))
        assert (found[0], text in found[1]) == (code, True)
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
    assert refusal(lambda: stub.ModelInfer(placed("double", "FP32", [1, 2], 8)))[0] == CODES.NOT_FOUND


def test_the_gpus_memory_is_refused_politely(stub: GRPCInferenceServiceStub) -> None:
    assert not stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest()).regions
    stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
    register = pb.CudaSharedMemoryRegisterRequest(name="c", raw_handle=b"x", byte_size=8)
    assert refusal(lambda: stub.CudaSharedMemoryRegister(register))[0] == CODES.UNIMPLEMENTED
    unregister = pb.CudaSharedMemoryUnregisterRequest(name="c")
    assert refusal(lambda: stub.CudaSharedMemoryUnregister(unregister))[0] == CODES.NOT_FOUND


def test_off_by_default(digits_server: RunningServer) -> None:
    with grpc.insecure_channel(digits_server.grpc_address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        image = placed("digits", "FP32", [1, 1, 8, 8], 256)
        image.inputs[0].name = "image"
        for call in (
            lambda: stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()),
            lambda: stub.SystemSharedMemoryRegister(pb.SystemSharedMemoryRegisterRequest(name="r", key="/r", byte_size=1)),
            lambda: stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest()),
            lambda: stub.ModelInfer(image),
        ):
            code, text = refusal(call)
            assert (code, "allow_shared_memory" in text) == (CODES.UNIMPLEMENTED, True)


def _flip(path: str, started, stop) -> None:
    tail = np.memmap(path, np.int64, "r+")[-1000:]
    started.set()
    while not stop.is_set():
        tail[:] = 2**45
        tail[:] = 0


def test_a_caller_that_writes_during_the_run_ends_nothing(
    memory_server: RunningServer, stub: GRPCInferenceServiceStub, memory: Memory
) -> None:
    """Gather checks its indices, then follows them: if they were still the caller's, the server would be gone in no time."""
    context = multiprocessing.get_context("spawn")
    started, stop = context.Event(), context.Event()
    writer = context.Process(target=_flip, args=(str(memory.path), started, stop))
    writer.start()
    assert started.wait(60)
    codes = set()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        message = placed("gather", "INT64", [1, 1_000_000], 8_000_000)
        message.outputs.add(name="y").parameters["classification"].int64_param = 1
        try:
            stub.ModelInfer(message)
            codes.add(CODES.OK)
        except grpc.RpcError as error:
            codes.add(error.code())
    stop.set()
    writer.join()
    assert memory_server.process.poll() is None
    assert codes <= {CODES.OK, CODES.INTERNAL}
    assert CODES.INTERNAL in codes  # it did see the wrong ones


def test_an_object_that_shrinks_is_refused(stub: GRPCInferenceServiceStub, memory: Memory) -> None:
    message = placed("double", "FP32", [1, 1_000_000], 4_000_000)
    output = message.outputs.add(name="y")
    output.parameters["shared_memory_region"].string_param = "t"
    output.parameters["shared_memory_byte_size"].int64_param = 4_000_000
    output.parameters["shared_memory_offset"].int64_param = 4_000_000
    stub.ModelInfer(message)
    os.truncate(memory.path, 4096)
    assert refusal(lambda: stub.ModelInfer(message)) == (
        CODES.INVALID_ARGUMENT, "region 't': its object has shrunk to 4096 bytes; register it again",
    )  # fmt: skip
