"""`infer_stream` of both clients against a real gRPC server."""

import asyncio

import numpy as np
import pytest
from normserve import (
    AsyncClient,
    CallCancelledError,
    Client,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NormserveError,
    answers,
)
from normserve_proto import open_inference_pb2 as pb


@pytest.fixture(params=["Client", "AsyncClient", "AsyncClient, asynchronous inputs"])
async def stream(request, address):
    """Gives all answers of a stream of either client."""

    async def inputs_of(inputs):
        for arrays in inputs:
            yield arrays

    async def collect(client, model, inputs, **arguments):
        return [answer async for answer in client.infer_stream(model, inputs, **arguments)]

    if request.param == "Client":
        with Client(address) as client:
            yield lambda *args, **kwargs: asyncio.to_thread(lambda: list(client.infer_stream(*args, **kwargs)))
        return
    wrapped = inputs_of if "asynchronous" in request.param else iter
    async with AsyncClient(address) as client:
        yield lambda model, inputs, **kwargs: collect(client, model, wrapped(inputs), **kwargs)


async def test_answers_come_in_the_order_of_the_inputs(stream, plan):
    arrays = [np.full((1, size), size, np.float32) for size in (1, 3, 100_000, 5)]
    inputs = ({"x": array} for array in arrays)
    answers = await stream("echo", inputs, version="2", outputs=iter(["x"]), parameters={"priority": 1}, metadata={"a": "b"})
    assert [answer.error for answer in answers] == [None] * 4
    for answer, array in zip(answers, arrays, strict=True):
        assert np.array_equal(answer.outputs["x"], array)
    assert len(plan.seen) == 4
    for seen in plan.seen:
        assert (seen.request.model_version, [output.name for output in seen.request.outputs]) == ("2", ["x"])
        assert seen.request.parameters["priority"].int64_param == 1
        assert seen.metadata["a"] == "b"


async def test_no_inputs_are_no_answers(stream):
    assert await stream("echo", []) == []


async def test_a_request_that_failed_raises_when_it_is_looked_at(stream):
    answers = await stream("broken", [{"x": np.float32([1])}] * 2)
    for answer in answers:
        assert answer.error.message == "no model 'broken'"
        with pytest.raises(NormserveError, match="no model 'broken'"):
            _ = answer.outputs


async def test_what_is_wrong_with_an_input_is_raised_after_the_answers_before_it(address):
    answers = []
    with Client(address) as client, pytest.raises(InvalidArgumentError, match="input 'x': dtype complex64"):
        answers.extend(client.infer_stream("echo", [{"x": np.float32([1])}, {"x": np.complex64([1])}]))
    assert len(answers) == 1


async def test_what_the_inputs_fail_with_is_raised(stream):
    def inputs():
        yield {"x": np.float32([1])}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await stream("echo", inputs())


async def test_the_deadline_is_the_whole_streams(stream, plan):
    plan.delay_s = 30
    with pytest.raises(DeadlineExceededError):
        await stream("echo", [{"x": np.float32([1])}], timeout=0.2)


async def test_whoever_stops_looking_ends_the_stream(address, plan):
    with Client(address) as client:
        for _answer in client.infer_stream("echo", ({"x": np.float32([1])} for _ in iter(int, 1))):
            break
        assert plan.stream_ended.wait(10)
    plan.stream_ended.clear()
    async with AsyncClient(address) as client:
        answers = client.infer_stream("echo", [{"x": np.float32([1])}] * 1000)
        async for _answer in answers:
            break
        await answers.aclose()
        assert await asyncio.to_thread(plan.stream_ended.wait, 10)


async def test_a_closed_client(address):
    client = Client(address)
    client.close()
    with pytest.raises(CallCancelledError):
        list(client.infer_stream("echo", []))
    client = AsyncClient(address)
    await client.close()
    with pytest.raises(CallCancelledError):
        _ = [answer async for answer in client.infer_stream("echo", [])]


@pytest.mark.parametrize("size", [0, 100_000])
def test_bytes_that_are_no_answer(size):
    output = pb.ModelInferResponse.InferOutputTensor(name="y", datatype="FP32", shape=[3])
    wrong = pb.ModelInferResponse(outputs=[output], raw_output_contents=[bytes(size)])
    for data in (b"\xff\xff", pb.ModelStreamInferResponse(infer_response=wrong).SerializeToString()):
        with pytest.raises(InternalError, match="cannot be read"):
            answers.stream_answer(data)
