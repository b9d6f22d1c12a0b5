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
import gc
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import structlog

from normserve_server.calls import now
from normserve_server.direct_call import CLOSED, NO_FLAGS, RECEIVED, DirectCall
from normserve_server.interceptors import Answer

try:
    from grpc._cython import cygrpc  # type: ignore[attr-defined]
except ImportError:
    cygrpc = None

REQUESTED = 4  # calls of a method that the core may hand over before it is asked for more
# A thread that wants to run Python waits so long for one that does, and the loop wants to again after each thing that it asks
# of the core: where a thread computes in Python, calls are answered three to seven times as often as with its own 5 ms.
SWITCH_SECONDS = 5e-4
TURN_SECONDS = 1e-3  # after so long a turn of the loop is left to all else that waits for one, and answers are sent
STOP_SECONDS = 5.0
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
                (self._closed if kind is CLOSED else self._messages).append((call, event.batch_operations[-1]))
            if now() >= until:
                return
            event = self._next(0)

    def _begin(self, path: str, event: Any) -> None:
        call = DirectCall(event, self._answers[path], self.perform)
        if self._open:
            with contextlib.suppress(ValueError):  # the server ends
                self._request(path)
        self.perform(event.call, (cygrpc.ReceiveMessageOperation(NO_FLAGS),), (call, RECEIVED))

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
