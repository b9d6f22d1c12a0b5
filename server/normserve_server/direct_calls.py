"""Unary calls taken from gRPC's completion queue, past `grpc.aio`.

What grpc.aio does for a call takes three times as long as what gRPC's core does for it. So the core is asked to give the calls
of our unary methods to a completion queue of our own. A thread waits at it while nothing happens; as soon as something does,
the event loop itself asks the queue, in each of its turns, and answers a call by one batch of operations. So one thread works
on calls: two would take the interpreter from one another several times a call. Streams, and the services that are not ours,
stay with grpc.aio, on the same server and port. ADR 17.

This is what grpcio's own servers are built on, and private to it: `core` finds out whether it is there.
"""

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from typing import Any

import grpc
import structlog

from normserve_server.calls import now
from normserve_server.interceptors import Answer

try:
    from grpc._cython import cygrpc  # type: ignore[attr-defined]
except ImportError:
    cygrpc = None

REQUESTED = 4  # calls of a method that the core may hand over before it is asked for more
# A thread that wants to run Python waits so long for one that does, and the loop wants to again after each thing that it asks
# of the core: where a thread computes in Python, calls are answered nine times as often as with the interpreter's own 5 ms.
SWITCH_SECONDS = 5e-4
TURN_SECONDS = 1e-3  # after so long a turn of the loop is left to all else that waits for one, and answers are sent
STOP_SECONDS = 5.0
_NO_FLAGS = 0
_CLOSED, _RECEIVED = "closed", "received"
_NEVER = 2.0**62  # seconds; the core has the last one that it can count where there is no deadline
_OK, _CANCELLED, _INTERNAL = (
    code.value[0] for code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)
)
_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]
_OPERATIONS = ("ReceiveCloseOnServer", "ReceiveMessage", "SendInitialMetadata", "SendMessage", "SendStatusFromServer")
_KINDS = ("operation_complete", "queue_shutdown")
_SERVER = ("register_method", "register_completion_queue", "request_registered_call")

_log = structlog.get_logger(__name__)


def of(server: grpc.aio.Server, answers: Mapping[str, Answer]) -> "DirectCalls | None":
    """Has the calls that there are answers for, by path, come past grpc.aio; None where this grpcio does not allow that."""
    found = core(server)
    if found is None:
        _log.warning("calls go through grpc.aio, which is slower: this grpcio has no core where it was looked for")
    return None if found is None else DirectCalls(found, answers)


def core(server: grpc.aio.Server) -> Any | None:
    """Gives the server of gRPC's core that is behind one of grpc.aio; None where this grpcio has not all that is used here."""
    names = ("CompletionQueue", "CompletionType", "Server", *(f"{name}Operation" for name in _OPERATIONS))
    if not all(hasattr(cygrpc, name) for name in names) or not all(hasattr(cygrpc.CompletionType, name) for name in _KINDS):
        return None
    found = [one for one in gc.get_referents(getattr(server, "_server", None)) if isinstance(one, cygrpc.Server)]
    return found[0] if len(found) == 1 and all(hasattr(found[0], name) for name in _SERVER) else None


class DirectCalls:
    """Takes the calls of some unary methods from the core, for one event loop.

    Args:
        server: the core's, not started.
        answers: by path, such as "/inference.GRPCInferenceService/ModelInfer", what answers; it runs on the loop.
    """

    def __init__(self, server: Any, answers: Mapping[str, Answer]) -> None:
        self._server = server
        self._answers = answers
        self._queue = cygrpc.CompletionQueue()
        self._messages: deque[tuple[DirectCall, Any]] = deque()
        self._closed: deque[tuple[DirectCall, Any]] = deque()
        self._held: deque[tuple[Any, Sequence[Any], tuple[DirectCall, str] | None]] = deque()
        self._holds = False
        self._open = True
        self._idle = threading.Semaphore()  # the loop asks the core for nothing
        self._thread = threading.Thread(target=self._wait, name="direct-calls", daemon=True)
        server.register_completion_queue(self._queue)
        for path in answers:
            server.register_method(path)

    def start(self) -> None:
        """Takes calls from now on; the server has been started."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._loop = asyncio.get_running_loop()
        for path in self._answers:
            for _ in range(REQUESTED):
                self._request(path)
        self._thread.start()

    async def stop(self) -> None:
        """Ends, after the server was stopped; calls that go on have nobody to answer any more."""
        self._open = False
        self._queue.shutdown()
        if self._thread.ident is not None:  # it was started
            await asyncio.to_thread(self._thread.join, STOP_SECONDS)

    def perform(self, call: Any, operations: Sequence[Any], tag: tuple["DirectCall", str] | None = None) -> None:
        """Has the core perform operations of a call, unless the end has come; on the loop. See `_tell` for when."""
        self._held.append((call, operations, tag))
        if not self._holds:
            self._perform()

    def _request(self, path: str) -> None:
        self._server.request_registered_call(self._queue, self._queue, path, path)

    def _wait(self) -> None:
        """On the thread: waits for the core whenever the loop has nothing more to do, and hands over what comes first."""
        over = False
        while not over:
            self._idle.acquire()
            event = self._next(None)
            over = event.completion_type == cygrpc.CompletionType.queue_shutdown
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(self._turn, event)
            del event  # it holds its call, which the core would keep

    def _turn(self, event: Any = None) -> None:
        """On the loop: looks after all that the core has done, and comes again, until it finds nothing."""
        if event is None:
            event = self._next(0)
        if event.completion_type != cygrpc.CompletionType.operation_complete and not (self._messages or self._held):
            self._idle.release()
            return
        try:
            self._sort(event)
            self._tell()
        finally:
            self._loop.call_soon(self._turn)

    def _next(self, deadline: float | None) -> Any:
        while True:
            try:
                return self._queue.poll(deadline)
            except Exception:  # noqa: BLE001 - such as a message that there is no memory for; its call goes with it
                with contextlib.suppress(Exception):
                    _log.exception("an event of a call was lost")

    def _sort(self, event: Any) -> None:
        """Sorts this and what comes without waiting, for `TURN_SECONDS`. A tag is a path, or a call and what has come of it."""
        until = now() + TURN_SECONDS
        while event.completion_type == cygrpc.CompletionType.operation_complete:
            if isinstance(event.tag, str):
                if event.success:  # else the server ends
                    self._begin(event.tag, event)
            elif event.tag is not None:
                call, kind = event.tag
                (self._closed if kind is _CLOSED else self._messages).append((call, event.batch_operations[-1]))
            if now() >= until:
                return
            event = self._next(0)

    def _begin(self, path: str, event: Any) -> None:
        call = DirectCall(event, self._answers[path], self.perform)
        if self._open:
            with contextlib.suppress(ValueError):  # the server ends
                self._request(path)
        self.perform(event.call, (cygrpc.ReceiveMessageOperation(_NO_FLAGS),), (call, _RECEIVED))

    def _tell(self) -> None:
        """Tells calls what has come, likewise. Ends go first: what is over is to be let go before more begins.

        Answers are sent at the end. Each would wake whoever reads the connection, who would go to sleep again until the next is
        made: that is a third of the cost of a small call where callers share a connection.
        """
        self._holds = True
        until = now() + TURN_SECONDS
        try:
            while self._closed or (self._messages and now() < until):
                if self._closed:
                    call, operation = self._closed.popleft()
                    call.closed(operation)
                else:
                    call, operation = self._messages.popleft()
                    call.received(operation)
        finally:
            self._holds = False
            self._perform()

    def _perform(self) -> None:
        while self._held:
            call, operations, tag = self._held.popleft()
            if self._open:
                call.start_server_batch(operations, tag)


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
        self._perform(self._call, (cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), (self, _CLOSED))

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
                self._send(_OK, b"", (), cygrpc.SendMessageOperation(response, _NO_FLAGS))
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
        status = cygrpc.SendStatusFromServerOperation(trailing_metadata, code, details, _NO_FLAGS)
        answer = (cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS), *message, status)
        if self._watched:
            self._perform(self._call, answer)
        else:  # the end comes after the answer anyway, and two batches cost twice as much
            close = cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS)
            self._perform(self._call, (*answer, close), (self, _CLOSED))

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
