"""`normalize_stream` of both clients against a real gRPC server."""

import asyncio
import itertools

import ml_dtypes
import numpy as np
import pytest
from normserve import AsyncClient, Client, DeadlineExceededError, InternalError, InvalidArgumentError, functional, normalization
from normserve_proto import normalization_pb2 as pb
from normserve_proto import tensors, wire

C = np.arange(3, dtype=np.float32)
NOTHING = np.zeros(0, np.float32)


@pytest.fixture(params=["Client", "AsyncClient", "AsyncClient, asynchronous requests"])
async def stream(request, address):
    """Gives all answers of a stream of either client."""

    async def asynchronous(requests):
        for one in requests:
            yield one

    async def collect(client, requests, **arguments):
        return [answer async for answer in client.normalize_stream(requests, **arguments)]

    if request.param == "Client":
        with Client(address) as client:
            yield lambda *args, **kwargs: asyncio.to_thread(lambda: list(client.normalize_stream(*args, **kwargs)))
        return
    wrapped = asynchronous if "asynchronous" in request.param else iter
    async with AsyncClient(address) as client:
        yield lambda requests, **kwargs: collect(client, wrapped(requests), **kwargs)


async def test_answers_come_in_the_order_of_the_requests(stream, plan):
    arrays = [
        np.full((1, size), size, dtype) for size, dtype in ((1, np.float32), (100_000, ml_dtypes.bfloat16), (5, np.float64))
    ]
    answers = await stream((functional.layer_norm(array, (1,)) for array in arrays), metadata={"a": "b"})
    assert [answer.error for answer in answers] == [None] * 3
    for answer, array in zip(answers, arrays, strict=True):
        assert answer.output.dtype == array.dtype
        assert np.array_equal(answer.output, array)
    assert [seen.metadata["a"] for seen in plan.seen] == ["b"] * 3


async def test_every_operator_travels(stream, plan):
    x = np.ones((2, 3, 4), np.float32)
    requests = {
        "batch_norm": functional.batch_norm(x, C, C, training=True),
        "layer_norm": functional.layer_norm(x, (4,)),
        "instance_norm": functional.instance_norm(x),
        "group_norm": functional.group_norm(x, 3),
        "rms_norm": functional.rms_norm(x, (4,)),
        "local_response_norm": functional.local_response_norm(x, 2),
        "normalize": functional.normalize(x),
    }
    answers = await stream(requests.values())
    assert [seen.request.WhichOneof("operator") for seen in plan.seen] == list(requests)
    assert answers[0].result.running_mean.tolist() == C.tolist()
    assert answers[1].result.running_mean is None


async def test_no_requests_are_no_answers(stream):
    assert await stream([]) == []


async def test_one_that_was_refused_raises_when_it_is_looked_at_and_the_stream_goes_on(stream):
    answers = await stream(functional.layer_norm(x, (1,)) for x in (NOTHING, C))
    assert isinstance(answers[0].error, InvalidArgumentError)
    for look in (lambda: answers[0].output, lambda: answers[0].result):
        with pytest.raises(InvalidArgumentError, match="nothing to normalize"):
            look()
    assert answers[1].output.tolist() == C.tolist()


async def test_what_is_wrong_with_an_input_is_raised_after_the_answers_before_it(address):
    answers = []
    with Client(address) as client, pytest.raises(InvalidArgumentError, match="input 'input': dtype complex64"):
        answers.extend(client.normalize_stream(functional.layer_norm(x, (1,)) for x in (C, np.complex64([1]))))
    assert len(answers) == 1


async def test_the_deadline_is_the_whole_streams(stream, plan):
    plan.delay_s = 30
    with pytest.raises(DeadlineExceededError):
        await stream([functional.normalize(C, dim=0)], timeout=0.2)


def test_requests_are_read_ahead_but_not_for_ever(client):
    """A caller who stops reading is left alone, and so is its iterator; leaving ends the stream."""
    taken = itertools.count()
    requests = (functional.normalize(np.ones((1, 100_000), np.float32)) for _ in iter(lambda: next(taken), -1))
    answers = client.normalize_stream(requests)
    next(answers)
    answers.close()
    assert next(taken) < 10_000


@pytest.mark.parametrize("small", [0, 64 * 1024, 2**40])
def test_an_answer_is_read_past_protobuf_as_by_it(monkeypatch, small):
    monkeypatch.setattr(wire, "SMALL", small)
    array = np.full((200, 300), 2, np.float32)
    output = pb.Tensor(datatype="FP32", shape=array.shape, data=bytes(tensors.encode(array)))
    mean = pb.Tensor(datatype="FP32", shape=[3], data=C.tobytes())
    for response in (pb.NormalizeResponse(output=output), pb.NormalizeResponse(output=output, running_mean=mean)):
        answer = normalization.read_stream_answer(pb.NormalizeStreamResponse(response=response).SerializeToString())
        assert np.array_equal(answer.output, array)
        assert (answer.result.running_mean is not None) == response.HasField("running_mean")


@pytest.mark.parametrize(
    "data", [b"", b"\x0a\xff", b"\xff" * 70_000, pb.NormalizeStreamResponse(response={}).SerializeToString()]
)
def test_an_answer_that_is_none(data):
    with pytest.raises(InternalError, match="cannot be read"):
        normalization.read_stream_answer(data)
