"""One RPC that streams both ways: each message is a call of its own, and the answers leave in the order of the messages.

Messages are read and answered while earlier ones are not written yet, so that they can run in one batch. How many is bounded:
a caller who does not read its answers is not read from either, and gRPC's flow control tells it so.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from normserve_server.admission import Admission
from normserve_server.calls import Call, now
from normserve_server.outcomes import Outcomes
from normserve_server.refusals import Refusal
from normserve_server.trace_context import Parent

MOST_MESSAGES = 128  # read and not yet answered: two batches of 64
MOST_BYTES = 32 * 2**20  # of those messages and their answers; the last one read may go beyond it
ERRORS_END = "triton_grpc_error"  # request metadata, "true": the first error is the stream's status instead of a message
DRAINING = "the server is draining"

Handler: TypeAlias = Callable[[Any, Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class StreamCodec:
    """How the messages of a stream are read and written.

    Attributes:
        parse: a message.
        serialize: what the handler answered.
        refuse: gives the message that tells of an error, from the message that it is an answer to and the error.
        most_messages: read and not yet answered; None for `MOST_MESSAGES`.
    """

    parse: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    refuse: Callable[[bytes, Refusal], bytes]
    most_messages: int | None = None


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """What is known of an RPC before it is called: its name, what answers one message of it, and how messages are read."""

    name: str
    handler: Handler
    codec: StreamCodec


@dataclass(slots=True, eq=False)
class _Message:
    """A message that was read and whose answer is not written yet; `held_bytes` are its own and its answer's."""

    call: Call
    held_bytes: int
    admitted_bytes: int | None = None
    reply: "asyncio.Task[bytes | Refusal]" = field(init=False)


class Stream:
    """One such RPC, from its first message to its status.

    Args:
        context: gRPC's side of it.
        method: what it calls.
        admission: what decides whether a message is taken on.
        outcomes: where each message's end is noted.
        peer: tells who called, and `parent`, in which trace; each message is a call of theirs.
    """

    def __init__(
        self,
        context: Any,
        method: StreamMethod,
        admission: Admission,
        outcomes: Outcomes,
        peer: Callable[[], str] = str,
        parent: Parent | None = None,
    ) -> None:
        self._context = context
        self._method = method
        self._admission = admission
        self._outcomes = outcomes
        self._peer = peer
        self._parent = parent
        self._errors_end = (ERRORS_END, "true") in (context.invocation_metadata() or ())
        remaining: float | None = context.time_remaining()
        self._deadline = None if remaining is None else now() + remaining
        self._messages: deque[_Message] = deque()
        self._held_bytes = 0
        self._came = asyncio.Semaphore(0)  # one for each message, and one for their end
        self._room = asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _reading: self._came.release())
        self._stopped = False

    async def run(self) -> None:
        """Answers messages until the caller has sent its last one, or the server drains; then those that were read, too."""
        self._admission.open(self._stop)
        try:
            await self._write()
        finally:
            self._admission.close(self._stop)
            self._reading.cancel()
            for message in self._messages:
                message.reply.cancel()
                self._let_go(message)

    def _stop(self) -> None:
        self._stopped = self._reading.cancel()

    async def _read(self) -> None:
        with contextlib.suppress(grpc.aio.BaseError):  # the caller has left
            while (data := await self._context.read()) is not grpc.aio.EOF:
                self._take(data)
                await self._has_room()

    async def _has_room(self) -> None:
        most = self._method.codec.most_messages or MOST_MESSAGES
        while len(self._messages) >= most or self._held_bytes >= MOST_BYTES:
            self._room.clear()
            await self._room.wait()

    def _take(self, data: bytes) -> None:
        message = _Message(Call(self._method.name, self._deadline), len(data))
        message.call.peer, message.call.parent = self._peer, self._parent
        message.reply = asyncio.create_task(self._replied(data, message))
        self._messages.append(message)
        self._held_bytes += len(data)
        self._came.release()

    async def _replied(self, data: bytes, message: _Message) -> bytes | Refusal:
        try:
            reply = await self._served(data, message)
        except BaseException as error:  # noqa: BLE001 - every exception becomes a message or the stream's status
            refused = self._outcomes.failed(error, message.call, len(data))
            if self._errors_end:
                return refused
            reply = self._method.codec.refuse(data, refused)
        else:
            self._outcomes.succeeded(message.call, len(data), len(reply))
        message.held_bytes += len(reply)
        self._held_bytes += len(reply)
        return reply

    async def _served(self, data: bytes, message: _Message) -> bytes:
        self._admission.enter(len(data))
        message.admitted_bytes = len(data)
        codec = self._method.codec
        response = codec.serialize(await self._method.handler(codec.parse(data), message.call))
        message.admitted_bytes += len(response)
        self._admission.hold(len(response))
        return response

    async def _write(self) -> None:
        while await self._came.acquire() and self._messages:
            message = self._messages[0]
            reply = await message.reply
            if isinstance(reply, Refusal):
                await self._context.abort(reply.code, reply.text, reply.trailers)
            try:
                await self._context.write(reply)
            except grpc.aio.InternalError:  # the caller has left, and nobody reads the rest
                return
            self._let_go(self._messages.popleft())
            self._room.set()
        if self._stopped:
            await self._context.abort(grpc.StatusCode.UNAVAILABLE, DRAINING)

    def _let_go(self, message: _Message) -> None:
        self._held_bytes -= message.held_bytes
        if message.admitted_bytes is not None:
            self._admission.leave(message.admitted_bytes)
