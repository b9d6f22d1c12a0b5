"""One unary call that gRPC's core has handed over, from its message to its end; `direct_calls` has them all."""

import asyncio
import contextvars
import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any

import grpc
import structlog

from normserve_server.interceptors import Answer

try:
    from grpc._cython import cygrpc  # type: ignore[attr-defined]
except ImportError:
    cygrpc = None

NO_FLAGS = 0
CLOSED, RECEIVED = "closed", "received"  # what the core tells of a call
_NEVER = 2.0**62  # seconds; the core has the last one that it can count where there is no deadline
_OK, _CANCELLED, _INTERNAL, _UNKNOWN = (
    code.value[0] for code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
)

_log = structlog.get_logger(__name__)


class DirectCall:
    """One call, with what handlers use of a `grpc.aio.ServicerContext`.

    Args:
        event: what the core told of it.
        answer: answers its message.
        perform: has the core perform operations of its call.
    """

    __slots__ = (
        "_answer",
        "_call",
        "_closed",
        "_deadline",
        "_done",
        "_ended",
        "_metadata",
        "_perform",
        "_sent",
        "_task",
        "_watched",
    )

    def __init__(self, event: Any, answer: Answer, perform: Callable[..., None]) -> None:
        self._perform = perform
        self._call = event.call
        self._deadline = event.call_details.deadline
        self._metadata: tuple[tuple[str, str | bytes], ...] = event.invocation_metadata
        self._answer = answer
        self._task: asyncio.Task[None] | None = None
        self._done: Callable[[Any], None] | None = None
        self._closed = False
        self._ended = False
        self._sent = False
        self._watched = False

    def received(self, operation: Any) -> None:
        """Answers the message; without a task until the first wait, because most answers have none."""
        data = operation.message()
        if data is None:  # it has none, or the caller is about to leave
            self._send(_INTERNAL, b"the call has no message", ())
            self._end()
            return
        answering, context = self._run(data), contextvars.copy_context()
        try:
            waited = context.run(answering.send, None)
        except (StopIteration, asyncio.CancelledError):
            return
        self._task = asyncio.get_running_loop().create_task(_rest(answering, waited), context=context)
        self._watched = True
        self._perform(self._call, (cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS),), (self, CLOSED))

    def closed(self, operation: Any) -> None:
        """The caller has its answer, or will not take any."""
        self._closed = True
        if self._ended:
            self._finish()
        elif self._task is not None and operation.cancelled():
            asyncio.get_running_loop().call_soon(self._task.cancel)  # not before its first step, which is to wait

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the caller sent beside its message."""
        return self._metadata

    def peer(self) -> str:
        """The caller's address, as gRPC writes it."""
        address: bytes = self._call.peer()
        return address.decode()

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, ≥ 0; None without one."""
        return None if self._deadline > _NEVER else max(self._deadline - time.time(), 0.0)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Is called, with nothing that is of use, once the call is over and its answer is written."""
        self._done = callback

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Iterable[tuple[str, str]]) -> None:
        """Ends the call with an error; unlike grpc.aio's it returns."""
        self._send(code.value[0], details.encode(errors="replace"), tuple(trailing_metadata))

    async def _run(self, data: bytes) -> None:
        try:
            response = await self._answer(data, self)
            if response is not None:
                self._send(_OK, b"", (), cygrpc.SendMessageOperation(response, NO_FLAGS))
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller waits
            _log.exception("a call was not answered")
            self._send(_UNKNOWN, f"{type(error).__name__} while answering".encode(), ())
        finally:
            self._end()

    def _end(self) -> None:
        if not self._sent:
            self._send(_CANCELLED, b"", ())
        self._ended, self._task = True, None
        if self._closed:
            self._finish()

    def _send(self, code: int, details: bytes, trailing_metadata: tuple[tuple[str, str], ...], *message: Any) -> None:
        if self._sent:
            return
        self._sent = True
        status = cygrpc.SendStatusFromServerOperation(trailing_metadata, code, details, NO_FLAGS)
        answer = (cygrpc.SendInitialMetadataOperation(None, NO_FLAGS), *message, status)
        if self._watched:
            self._perform(self._call, answer)
        else:  # the end comes after the answer anyway, and two batches cost twice as much
            close = cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS)
            self._perform(self._call, (*answer, close), (self, CLOSED))

    def _finish(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self)


async def _rest(answering: Coroutine[Any, Any, None], waited: Any) -> None:
    """What is left of a coroutine that has run to its first wait, for a task."""
    await _resumed(answering, waited)


@types.coroutine
def _resumed(answering: Coroutine[Any, Any, None], waited: Any) -> Generator[Any, Any, None]:
    try:
        while True:
            try:
                sent = yield waited
            except BaseException as error:  # noqa: BLE001 - the coroutine's to handle
                waited = answering.throw(error)
            else:
                waited = answering.send(sent)
    except StopIteration:
        return
