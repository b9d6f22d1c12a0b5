"""Calls that are everybody's business, at the supervisor's end: each reaches all workers, and changes reach them in one order.

A worker that comes later is told what has been changed before it counts as one of them. A change is noted before it is sent, so
that whoever comes meanwhile gets it from the journal; who was there gets it from the call.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol
from weakref import WeakValueDictionary

import grpc
import structlog

from normserve_server.processes import outcome
from normserve_server.processes.journal import Change, Journal, Subject, change_of
from normserve_server.processes.outcome import Outcome
from normserve_server.processes.place import CHANNEL_OPTIONS, CONTROL, SHARED

_log = structlog.get_logger(__name__)


class Recipient(Protocol):
    """A worker, as far as calls are concerned.

    Attributes:
        slot: its number.
    """

    slot: int

    async def answer(self, method: str, data: bytes) -> Outcome | None:
        """Gives what it answers; None where it is dead."""


class Control:
    """Takes calls from any worker to all."""

    def __init__(self) -> None:
        self._members: list[Recipient] = []
        self._journal = Journal()
        self._turns: WeakValueDictionary[Subject, asyncio.Lock] = WeakValueDictionary()
        self._running: set[asyncio.Task[bytes]] = set()
        self._server = grpc.aio.server(options=CHANNEL_OPTIONS)
        table: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(self._handler(name)) for name in SHARED}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(CONTROL, table),))

    async def start(self, address: str) -> None:
        """Listens on a unix socket, such as "unix:/run/x/control"."""
        self._server.add_insecure_port(address)
        await self._server.start()

    async def stop(self) -> None:
        """Ends listening, and every call."""
        await self._server.stop(None)

    async def admit(self, worker: Recipient) -> None:
        """Tells a worker of all changes that count, and from then on of every call."""
        told: set[Change] = set()
        while (change := self._untold(told)) is not None:
            told.add(change)
            result = await worker.answer(change.method, change.data)
            if result is not None and not result.ok:
                _log.error("worker does not take a change", worker=worker.slot, method=change.method, reason=result.text)
        self._members = sorted([*self._members, worker], key=lambda member: member.slot)

    def dismiss(self, worker: Recipient) -> None:
        """Tells a worker no more."""
        self._members = [member for member in self._members if member is not worker]

    async def forward(self, method: str, data: bytes) -> list[Outcome]:
        """Sends a request to all workers and gives what they answer, by slot; nothing of those that die over it.

        Args:
            method: one of `SHARED`.
            data: the serialized request.
        """
        change = change_of(method, data)
        if change is None:
            return await self._ask_all(method, data)
        async with self._turns.setdefault(change.turn, asyncio.Lock()):
            self._journal.note(change)
            outcomes = await self._ask_all(method, data)
            self._journal.settle(change, accepted=any(each.ok for each in outcomes))
        return outcomes

    async def _ask_all(self, method: str, data: bytes) -> list[Outcome]:
        outcomes = await asyncio.gather(*(member.answer(method, data) for member in self._members))
        return [each for each in outcomes if each is not None]

    def _untold(self, told: set[Change]) -> Change | None:
        return next((change for change in self._journal.changes if change not in told), None)

    def _handler(self, method: str) -> Any:
        async def answer(data: bytes, _context: object) -> bytes:
            # A caller who leaves must not leave a change half made.
            return await asyncio.shield(self._spawn(self._packed(method, data)))

        return answer

    async def _packed(self, method: str, data: bytes) -> bytes:
        return outcome.pack_all(await self.forward(method, data))

    def _spawn(self, work: Coroutine[Any, Any, bytes]) -> "asyncio.Task[bytes]":
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task
