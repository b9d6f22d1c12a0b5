"""Streams over a real gRPC server and channel, on one event loop, with a handler that ends when the test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from normserve_server import streaming
from normserve_server.admission import Admission
from normserve_server.calls import Call
from normserve_server.errors import STATUS_CODES, NotFoundError, OverloadedError
from normserve_server.interceptors import Door
from normserve_server.metrics import Metrics
from normserve_server.recording import Recorder
from normserve_server.streaming import StreamCodec, StreamMethod
from normserve_server.tracing import Traces
from prometheus_client import CollectorRegistry

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
CODEC = StreamCodec(
    parse=bytes,
    serialize=lambda answer: b"answer to " + answer,
    refuse=lambda data, refusal: data + b": " + refusal.text.encode(),
)
CANCELLED = grpc.StatusCode.CANCELLED


@dataclass
class Handler:
    """Answers a message with itself, `times` over, once it is told to; at once where `held` is false."""

    held: bool = True
    times: int = 1
    fails: dict[bytes, Exception] = field(default_factory=dict)
    started: list[bytes] = field(default_factory=list)
    cancelled: list[bytes] = field(default_factory=list)
    ends: dict[bytes, asyncio.Event] = field(default_factory=dict)

    async def __call__(self, message: bytes, _call: Call) -> bytes:
        self.started.append(message)
        if message in self.fails:
            raise self.fails[message]
        try:
            if self.held:
                await self.end(message).wait()
        except asyncio.CancelledError:
            self.cancelled.append(message)
            raise
        return message * self.times

    def end(self, message: bytes) -> asyncio.Event:
        return self.ends.setdefault(message, asyncio.Event())


@dataclass
class Service:
    """What a test sees of the server, and a way to call it."""

    handler: Handler
    admission: Admission
    metrics: Metrics
    channel: grpc.aio.Channel

    def stream(self, **arguments: Any) -> Any:
        return self.channel.stream_stream("/test.Service/Stream")(**arguments)

    async def pass_time(self) -> None:
        """Whatever the server had to do when this was called has been done when it returns."""
        for _ in range(20):
            call = self.stream()
            await call.done_writing()
            assert await call.code() == grpc.StatusCode.OK

    def codes(self) -> dict[str, float]:
        samples = self.metrics.registry.collect()
        return {
            sample.labels["code"]: sample.value
            for metric in samples
            for sample in metric.samples
            if sample.name == "normserve_requests_total" and sample.value
        }


@asynccontextmanager
async def serving(handler: Handler, limit_bytes: int = 2**30) -> AsyncIterator[Service]:
    admission, metrics = Admission(limit_bytes), Metrics(CollectorRegistry())
    door = Door(admission, Recorder(metrics, Traces()), STATUS_CODES)
    server = grpc.aio.server(options=OPTIONS)
    table = {"Stream": door.stream(StreamMethod("Stream", handler, CODEC))}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", table),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            yield Service(handler, admission, metrics, channel)
    finally:
        await server.stop(0)


async def comes_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for are plain lists and counts
            await asyncio.sleep(0.001)


async def written(service: Service, messages: list[bytes], **arguments: Any) -> Any:
    call = service.stream(**arguments)
    for message in messages:
        await call.write(message)
    return call


async def test_messages_run_together_and_their_answers_keep_their_order() -> None:
    async with serving(Handler()) as service:
        call = await written(service, [b"1", b"2", b"3"])
        await comes_true(lambda: service.handler.started == [b"1", b"2", b"3"])
        for message in (b"3", b"2", b"1"):
            service.handler.end(message).set()
        await call.done_writing()
        assert [answer async for answer in call] == [b"answer to 1", b"answer to 2", b"answer to 3"]
        assert await call.code() == grpc.StatusCode.OK
        await comes_true(lambda: service.codes() == {"OK": 3})
        assert (service.admission.calls, service.admission.bytes) == (0, 0)


async def test_no_more_messages_are_read_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MOST_MESSAGES", 3)
    async with serving(Handler()) as service:
        call = await written(service, [b"%d" % number for number in range(6)])
        await comes_true(lambda: len(service.handler.started) == 3)
        await service.pass_time()
        assert service.handler.started == [b"0", b"1", b"2"]
        service.handler.end(b"1").set()  # not the first one, so nothing can leave
        await service.pass_time()
        assert len(service.handler.started) == 3
        service.handler.end(b"0").set()
        assert [await call.read(), await call.read()] == [b"answer to 0", b"answer to 1"]
        await comes_true(lambda: len(service.handler.started) == 5)
        call.cancel()


async def test_a_caller_that_does_not_read_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MOST_BYTES", 2**20)
    big = bytes(2**18)
    async with serving(Handler(held=False)) as service:
        call = service.stream()
        sending = asyncio.create_task(_send(call, [big] * 200))
        assert await stands_still(service) < 150
        assert not sending.done()
        assert service.admission.bytes <= 2 * (2**20 + len(big))  # messages, and answers to all of them
        answers = [len(answer) async for answer in call]
        assert answers == [len(b"answer to ") + len(big)] * 200
        assert (service.admission.calls, service.admission.bytes) == (0, 0)


async def stands_still(service: Service) -> int:
    """How many messages are taken when no more are."""
    taken = -1
    while taken < len(service.handler.started):
        taken = len(service.handler.started)
        await service.pass_time()
    return taken


async def test_answers_that_nobody_reads_count_as_messages_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(streaming, "MOST_BYTES", 2**20)
    async with serving(Handler(held=False, times=2**20)) as service:
        call = await written(service, [b"x"] * 100)
        assert await stands_still(service) < 50
        call.cancel()  # in the middle of an answer
        await comes_true(lambda: service.admission.calls == 0)
    assert not caplog.records


async def _send(call: Any, messages: list[bytes]) -> None:
    for message in messages:
        await call.write(message)
    await call.done_writing()


@pytest.mark.parametrize(("seconds", "code"), [(None, CANCELLED), (0.2, grpc.StatusCode.DEADLINE_EXCEEDED)])
async def test_whoever_leaves_takes_all_messages_along(seconds: float | None, code: grpc.StatusCode) -> None:
    async with serving(Handler()) as service:
        call = await written(service, [b"1", b"2"], timeout=seconds)
        await comes_true(lambda: len(service.handler.started) == 2)
        if seconds is None:
            call.cancel()
        assert await call.code() == code
        await comes_true(lambda: service.codes() == {code.name: 2})
        assert sorted(service.handler.cancelled) == [b"1", b"2"]
        assert (service.admission.calls, service.admission.bytes) == (0, 0)


async def test_an_error_is_one_messages_and_the_stream_goes_on() -> None:
    handler = Handler(held=False, fails={b"2": NotFoundError("no such model")})
    async with serving(handler, limit_bytes=100) as service:
        call = await written(service, [b"1", b"2", bytes(101), b"3"])
        await call.done_writing()
        first, second, third, fourth = [answer async for answer in call]
        assert (first, second, fourth) == (b"answer to 1", b"2: no such model", b"answer to 3")
        assert third.endswith(b": message of 101 bytes, the server admits 100 bytes at a time")
        await comes_true(lambda: service.codes() == {"OK": 2, "NOT_FOUND": 1, "RESOURCE_EXHAUSTED": 1})
        assert (service.admission.calls, service.admission.bytes) == (0, 0)


async def test_the_first_error_ends_a_stream_that_asked_for_it() -> None:
    handler = Handler(fails={b"2": OverloadedError("full", retry_after_ms=7)})
    async with serving(handler) as service:
        call = await written(service, [b"1", b"2", b"3"], metadata=(("triton_grpc_error", "true"),))
        await comes_true(lambda: len(handler.started) == 3)
        handler.end(b"1").set()
        assert await call.read() == b"answer to 1"
        assert (await call.code(), await call.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        assert dict(await call.trailing_metadata())["grpc-retry-pushback-ms"] == "7"
        await comes_true(lambda: handler.cancelled == [b"3"])
        assert (service.admission.calls, service.admission.bytes) == (0, 0)


async def test_a_drain_waits_for_what_was_accepted_and_ends_the_stream_after_it() -> None:
    async with serving(Handler()) as service:
        idle, busy = service.stream(), await written(service, [b"1", b"2"])
        await idle.write(b"0")
        service.handler.end(b"0").set()
        assert await idle.read() == b"answer to 0"
        await comes_true(lambda: len(service.handler.started) == 3)
        draining = asyncio.create_task(service.admission.drain())
        assert (await idle.code(), await idle.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is draining")
        assert not draining.done()
        with pytest.raises(grpc.aio.AioRpcError, match="the server is draining"):
            await service.stream().read()
        service.handler.end(b"2").set()
        service.handler.end(b"1").set()
        assert [await busy.read(), await busy.read()] == [b"answer to 1", b"answer to 2"]
        assert await busy.code() == grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(5):
            await draining


async def test_a_stream_whose_caller_was_done_ends_well_although_the_server_drains() -> None:
    async with serving(Handler()) as service:
        call = await written(service, [b"1"])
        await call.done_writing()
        await comes_true(lambda: len(service.handler.started) == 1)
        await service.pass_time()
        draining = asyncio.create_task(service.admission.drain())
        await asyncio.sleep(0)
        service.handler.end(b"1").set()
        assert await call.read() == b"answer to 1"
        assert await call.code() == grpc.StatusCode.OK
        await draining
