import asyncio
import contextvars
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from normserve_server import direct_calls, transport
from normserve_server.direct_call import DirectCall
from normserve_server.direct_calls import DirectCalls

PATH, OTHER = "/test.Service/Direct", "/test.Service/Other"
Answer = Callable[[bytes, Any], Awaitable[bytes | None]]


@asynccontextmanager
async def serving(answer: Answer, grace: float | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server that answers PATH directly, and OTHER through grpc.aio."""

    async def other(message: bytes, _context: Any) -> bytes:
        return b"other " + message

    server = grpc.aio.server(options=transport.OPTIONS)
    table: dict[str, Any] = {"Other": grpc.unary_unary_rpc_method_handler(other)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", table),))
    port = server.add_insecure_port("127.0.0.1:0")
    direct = DirectCalls(direct_calls.core(server), {PATH: answer})
    await server.start()
    direct.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
        await server.stop(grace)
    await direct.stop()


def method(channel: grpc.aio.Channel, path: str = PATH) -> Any:
    return channel.unary_unary(path)


async def error_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_call_is_answered_on_the_loop_with_what_came_beside_its_message() -> None:
    seen: dict[str, Any] = {}

    async def answer(message: bytes, context: Any) -> bytes:
        seen.update(dict(context.invocation_metadata()), left=context.time_remaining(), peer=context.peer())
        seen["thread"] = threading.current_thread()
        return message[::-1]

    async with serving(answer) as channel:
        assert await method(channel)(b"abc", timeout=60, metadata=(("key", "value"), ("bin-bin", b"\0"))) == b"cba"
        assert (seen["key"], seen["bin-bin"], seen["thread"]) == ("value", b"\0", threading.current_thread())
        assert 50 < seen["left"] <= 61
        assert seen["peer"].startswith("ipv4:127.0.0.1:")
        assert await method(channel)(b"") == b""
        assert seen["left"] is None
        assert await method(channel, OTHER)(b"too") == b"other too"


async def test_errors_have_their_code_text_and_trailers() -> None:
    async def answer(_message: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no model 'ä\n'", (("retry", "1"),))

    async with serving(answer) as channel:
        error = await error_of(method(channel)(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no model 'ä\n'")
    assert ("retry", "1") in tuple(error.trailing_metadata())


@pytest.mark.parametrize("waits", [False, True])
async def test_an_answer_that_raises_costs_only_its_own_caller(waits: bool) -> None:
    async def answer(message: bytes, _context: Any) -> bytes:
        if waits:
            await asyncio.sleep(0.01)
        return bytes([1 // message[0]])

    async with serving(answer) as channel:
        results = await asyncio.gather(*[method(channel)(bytes([number])) for number in (1, 0, 1)], return_exceptions=True)
        assert [isinstance(result, bytes) for result in results] == [True, False, True]
        assert results[1].code() is grpc.StatusCode.UNKNOWN  # type: ignore[union-attr]
        assert results[1].details() == "ZeroDivisionError while answering"  # type: ignore[union-attr]
        assert await method(channel)(b"\1") == b"\1"


async def test_many_wait_and_each_gets_its_own() -> None:
    async def answer(message: bytes, _context: Any) -> bytes:
        number = int(message)
        for _ in range(number % 4):
            await asyncio.sleep(0.001 * (number % 3))
        async with asyncio.timeout(10 if number % 4 else None) if number % 4 else asyncio.Lock():
            return message * 2

    async with serving(answer) as channel:
        numbers = [str(number).encode() for number in range(2000)]
        assert await asyncio.gather(*map(method(channel), numbers)) == [number * 2 for number in numbers]


@pytest.mark.parametrize("seconds", [None, 0.05])
async def test_an_answer_is_cancelled_where_nobody_waits_for_it(seconds: float | None) -> None:
    began, cancelled, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(_message: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _context: over.set())
        try:
            began.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            assert not over.is_set()
            cancelled.set()
            raise
        return b""

    async with serving(answer) as channel:
        call = method(channel)(b"", timeout=seconds)
        await began.wait()
        if seconds is None:
            call.cancel()
        async with asyncio.timeout(10):
            await cancelled.wait()
            await over.wait()


async def test_a_call_that_is_cancelled_in_the_turn_in_which_it_came_is_cancelled() -> None:
    ended: list[str] = []

    async def answer(_message: bytes, _context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return b""

    details = SimpleNamespace(deadline=math.inf)
    event = SimpleNamespace(call=None, call_details=details, invocation_metadata=())
    call = DirectCall(event, answer, lambda *_: None)
    call.received(SimpleNamespace(message=lambda: b""))
    call.closed(SimpleNamespace(cancelled=lambda: True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert ended == ["cancelled"]


async def test_the_end_of_a_call_is_told_once_and_after_its_answer() -> None:
    told: list[object] = []

    async def answer(message: bytes, context: Any) -> bytes:
        context.add_done_callback(told.append)
        if message:
            await asyncio.sleep(0)
        return b"answer"

    async with serving(answer) as channel:
        for count, message in enumerate([b"", b"waits"] * 50, start=1):
            await method(channel)(message)
            async with asyncio.timeout(10):
                while len(told) < count:  # noqa: ASYNC110 - it is told by a plain call
                    await asyncio.sleep(0.001)
    assert len(told) == 100


async def test_a_call_without_a_message_is_refused() -> None:
    async def answer(_message: bytes, _context: Any) -> bytes:
        return b""

    async with serving(answer) as channel:
        error = await error_of(channel.stream_unary(PATH)(iter(()), timeout=10))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "the call has no message")


async def test_a_stop_ends_what_waits() -> None:
    ended = asyncio.Event()

    async def answer(_message: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _context: ended.set())
        await asyncio.Event().wait()
        return b""

    async with serving(answer, grace=0.05) as channel:
        call = method(channel)(b"")
        await asyncio.sleep(0.05)
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await call
    async with asyncio.timeout(10):
        await ended.wait()


async def test_one_that_was_never_started_stops() -> None:
    server = grpc.aio.server()
    await DirectCalls(direct_calls.core(server), {}).stop()


def test_there_is_no_core_where_grpc_has_none() -> None:
    assert direct_calls.core(object()) is None  # type: ignore[arg-type]


class _Slow:
    """A call whose message takes longer than a turn of the loop is to."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def received(self, _operation: object) -> None:
        until = time.perf_counter() + direct_calls.TURN_SECONDS
        while time.perf_counter() < until:
            pass
        self._told.append("received")

    def closed(self, _operation: object) -> None:
        self._told.append("closed")


async def test_the_loop_has_a_turn_for_others_between_calls_and_ends_go_first() -> None:
    told: list[str] = []
    direct = DirectCalls(direct_calls.core(grpc.aio.server()), {})
    direct._loop = asyncio.get_running_loop()
    direct._messages.extend([(_Slow(told), None)] * 3)  # type: ignore[list-item]
    direct._closed.append((_Slow(told), None))  # type: ignore[arg-type]
    direct._turn()
    assert told == ["closed", "received"]
    direct._closed.append((_Slow(told), None))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert told[2:] == ["closed", "received"]
    await asyncio.sleep(0)
    assert told[4:] == ["received"]
    assert direct._idle._value == 1  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    assert direct._idle._value == 2  # type: ignore[attr-defined] # nothing was left, so the thread, if there were one, waits
    await direct.stop()


class _Answered:
    """A call that is answered at once, by operations that may fail."""

    def __init__(self, direct: DirectCalls, told: list[str], name: str) -> None:
        self._direct, self._told, self._name = direct, told, name

    def received(self, _operation: object) -> None:
        self._direct.perform(self, (), None)
        self._told.append(f"{self._name} received")

    def start_server_batch(self, _operations: object, _tag: object) -> None:
        self._told.append(f"{self._name} answered")
        if self._name == "broken":
            raise ZeroDivisionError


async def test_the_answers_of_a_turn_are_sent_at_its_end() -> None:
    told: list[str] = []
    direct = DirectCalls(direct_calls.core(grpc.aio.server()), {})
    direct._loop = asyncio.get_running_loop()
    direct._messages.extend((_Answered(direct, told, name), None) for name in ("a", "broken", "b"))  # type: ignore[misc]
    with pytest.raises(ZeroDivisionError):
        direct._turn()
    assert told == ["a received", "broken received", "b received", "a answered", "broken answered"]
    await asyncio.sleep(0)
    assert told.pop() == "b answered"
    direct.perform(_Answered(direct, told, "late"), ())
    assert told.pop() == "late answered"
    await direct.stop()


async def test_what_goes_wrong_with_one_call_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(message: bytes, _context: Any) -> bytes:
        return message

    def begin(self: DirectCalls, *args: Any, begin: Any = DirectCalls._begin) -> None:
        monkeypatch.undo()
        begin(self, *args)
        raise ValueError("core")

    monkeypatch.setattr(DirectCalls, "_begin", begin)
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: seen.append(context))
    async with serving(answer) as channel:
        assert await asyncio.gather(*[method(channel)(b"a", timeout=10) for _ in range(9)]) == [b"a"] * 9
    assert [str(context["exception"]) for context in seen] == ["core"]


async def test_context_variables_are_a_calls_own() -> None:
    variable: contextvars.ContextVar[bytes | None] = contextvars.ContextVar("variable", default=None)

    async def answer(message: bytes, _context: Any) -> bytes:
        before = variable.get()
        token = variable.set(message)
        if message == b"waits":
            await asyncio.sleep(0)
        assert variable.get() == message
        variable.reset(token)
        return b"" if before is None else before

    async with serving(answer) as channel:
        assert set(await asyncio.gather(*[method(channel)(m) for m in [b"waits", b"x"] * 50])) == {b""}


async def test_a_message_that_there_is_no_memory_for_costs_only_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(message: bytes, _context: Any) -> bytes:
        return message

    class Queue(cygrpc.CompletionQueue):  # type: ignore[misc]
        def poll(self, deadline: float | None = None) -> Any:
            event = super().poll(deadline)
            if isinstance(event.tag, tuple) and getattr(event.batch_operations[0], "message", bytes)() == b"too big":
                raise MemoryError
            return event

    monkeypatch.setattr(direct_calls, "cygrpc", SimpleNamespace(**{**vars(cygrpc), "CompletionQueue": Queue}))
    async with serving(answer) as channel:
        error = await error_of(method(channel)(b"too big", timeout=10))
        assert error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED  # it is told at once
        assert await method(channel)(b"fits", timeout=10) == b"fits"


@pytest.mark.parametrize("name", ["Server", "CompletionQueue", "CompletionType", "SendMessageOperation"])
async def test_calls_go_through_grpc_aio_where_the_core_lacks_something(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = grpc.aio.server()
    assert direct_calls.core(server) is not None
    others = {key: value for key, value in vars(cygrpc).items() if key != name}
    monkeypatch.setattr(direct_calls, "cygrpc", SimpleNamespace(**others))
    assert direct_calls.core(server) is None
