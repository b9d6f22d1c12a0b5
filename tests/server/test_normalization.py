"""The messages of NormalizationService, against protobuf's own, and how many calls wait."""

import asyncio
import threading

import grpc
import numpy as np
import pytest
from fake_device import FakeAccelerator
from google.protobuf.message import DecodeError
from normserve_proto import normalization_pb2 as pb
from normserve_proto import wire
from normserve_proto.tensors import Array
from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError, OverloadedError
from normserve_server.inline import INLINE_BYTES
from normserve_server.normalization import Answer, NormalizationServicer, parse, refuse, serialize, serialize_message
from normserve_server.operators import Place
from normserve_server.refusals import Refusal
from normserve_server.workers import Worker

BIG = np.arange(100_000, dtype=np.float32).reshape(2, -1)
C = np.arange(3, dtype=np.float32)


def tensor(array: Array) -> pb.Tensor:
    return pb.Tensor(datatype="FP32", shape=array.shape, data=array.tobytes())


def request(array: Array, **operator: object) -> bytes:
    return pb.NormalizeRequest(input=tensor(array), **(operator or {"normalize": {}})).SerializeToString()


@pytest.mark.parametrize("array", [np.zeros((0, 3), np.float32), C, BIG])
def test_an_answer_is_what_protobuf_would_write(array: Array) -> None:
    wanted = pb.NormalizeResponse(output=tensor(array), running_mean=tensor(C), num_batches_tracked=3)
    head = pb.NormalizeResponse(running_mean=tensor(C), num_batches_tracked=3)
    assert pb.NormalizeResponse.FromString(serialize(Answer(head, array))) == wanted
    streamed = pb.NormalizeStreamResponse.FromString(serialize_message(Answer(head, array)))
    assert streamed == pb.NormalizeStreamResponse(response=wanted)


def test_an_error_has_its_code_and_text() -> None:
    answer = pb.NormalizeStreamResponse.FromString(refuse(b"", Refusal(grpc.StatusCode.INVALID_ARGUMENT, "no")))
    assert answer == pb.NormalizeStreamResponse(error=pb.NormalizeError(code=3, message="no"))


def test_a_big_input_is_viewed() -> None:
    data = request(BIG)
    read = parse(data)
    assert read.data is not None
    assert np.shares_memory(np.frombuffer(read.data, np.uint8), np.frombuffer(data, np.uint8))
    assert not read.message.HasField("input")


@pytest.mark.parametrize("small", [0, 64 * 1024, 2**40])
async def test_a_request_is_read_however_it_is_written(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    monkeypatch.setattr(wire, "SMALL", small)
    servicer = NormalizationServicer(Worker("test"), 1, Place())
    described = pb.NormalizeRequest(input=pb.Tensor(datatype="FP32", shape=BIG.shape)).SerializeToString()
    filled = pb.NormalizeRequest(input=pb.Tensor(data=BIG.tobytes())).SerializeToString()
    operator = pb.NormalizeRequest(normalize={}).SerializeToString()
    wanted = BIG / np.maximum(np.sqrt(np.square(BIG.astype(np.float64)).sum(1, keepdims=True)), 1e-12)
    for data in (request(BIG), described + operator + filled, operator + request(BIG)):
        answer = await servicer.Normalize(parse(data), Call("Normalize"))
        np.testing.assert_allclose(answer.output, wanted, rtol=1e-6)


@pytest.mark.parametrize("data", [b"\xff", request(BIG)[:-1], wire.join(b"", 1, [b"\xff" * 70_000])])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse(data)


async def test_an_input_is_required() -> None:
    servicer = NormalizationServicer(Worker("test"), 1, Place())
    for data in (b"", pb.NormalizeRequest(normalize={}).SerializeToString()):
        with pytest.raises(InvalidRequestError, match="input: required, got none"):
            await servicer.Normalize(parse(data), Call("Normalize"))
    with pytest.raises(InvalidRequestError, match="operator: one of batch_norm"):
        await servicer.Normalize(parse(pb.NormalizeRequest(input=tensor(C)).SerializeToString()), Call("Normalize"))


async def test_calls_beyond_the_queue_are_refused_and_messages_of_streams_wait() -> None:
    worker, gate = Worker("test"), threading.Event()
    servicer = NormalizationServicer(worker, 1, Place())
    assert BIG.nbytes >= INLINE_BYTES
    busy = asyncio.create_task(worker.call(gate.wait))
    calls = [asyncio.create_task(servicer.Normalize(parse(request(BIG)), Call("Normalize"))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await servicer.Normalize(parse(request(BIG)), Call("Normalize"))
    streamed = asyncio.create_task(servicer.NormalizeStream(parse(request(BIG)), Call("NormalizeStream")))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(busy, streamed, *calls)


async def test_rows_of_nothing_do_not_hold_the_loop() -> None:
    worker, gate = Worker("test"), threading.Event()
    servicer = NormalizationServicer(worker, 1, Place())
    rows = pb.Tensor(datatype="FP32", shape=[2**20, 0])
    message = pb.NormalizeRequest(input=rows, layer_norm=pb.LayerNorm(normalized_shape=[0])).SerializeToString()
    busy = asyncio.create_task(worker.call(gate.wait))
    call = asyncio.create_task(servicer.Normalize(parse(message), Call("Normalize")))
    await asyncio.sleep(0)
    assert not call.done()
    gate.set()
    assert (await call).output.shape == (2**20, 0)
    await busy
    await worker.close()


async def test_what_is_big_enough_for_the_device_is_normalized_there() -> None:
    device = FakeAccelerator()
    servicer = NormalizationServicer(Worker("test"), 1, Place(device, pytest.fail))
    data = parse(request(np.tile(BIG, 3), layer_norm=pb.LayerNorm(normalized_shape=[150_000])))
    for handler in (servicer.Normalize, servicer.NormalizeStream):
        device.journal.clear()
        output = (await handler(data, Call("Normalize"))).output.astype(np.float64)
        assert abs(output.mean(1)).max() < 1e-5
        assert output.var(1) == pytest.approx([1, 1], rel=1e-5)
        assert device.ordered("copy in", "copy out") == [("copy in", output.nbytes // 2), ("copy out", output.nbytes // 2)]
    device.journal.clear()
    await servicer.Normalize(parse(request(BIG)), Call("Normalize"))
    assert not device.journal
