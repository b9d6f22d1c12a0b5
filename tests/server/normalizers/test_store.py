"""How the store makes groups of calls."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from normserve_server.errors import NotFoundError, OverloadedError, StateError, StateFullError
from normserve_server.metrics import Metrics
from normserve_server.normalizers import store as module
from normserve_server.normalizers.database import Operation
from normserve_server.normalizers.store import Store
from normserve_server.workers import Worker
from prometheus_client import CollectorRegistry

LONG = 30.0  # no test waits so long


class Notes:
    """A database that notes the size of each group, and answers with each operation's ids."""

    def __init__(self) -> None:
        self.groups: list[int] = []

    def carry_out(self, operations: Sequence[Operation]) -> list[Any]:
        self.groups.append(len(operations))
        return [operation.ids for operation in operations]

    def close(self) -> None: ...


@pytest.fixture
async def store(notes: Notes) -> AsyncIterator[Store]:
    made: Any = Store(notes, Worker("test"), Metrics(CollectorRegistry()), 1024)  # type: ignore[arg-type]
    yield made
    await made.close()


@pytest.fixture
def notes() -> Notes:
    return Notes()


def operation(name: str = "") -> Operation:
    return Operation(lambda _transaction: None, (name,))


async def together(store: Store, count: int) -> None:
    await asyncio.gather(*(store.run(operation()) for _ in range(count)))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups wait for known callers as long as it takes."""
    monkeypatch.setattr(module, "GATHER_SECONDS", LONG)
    monkeypatch.setattr(module, "GAP_SECONDS", LONG)


@pytest.mark.usefixtures("patient")
async def test_a_caller_alone_waits_for_nobody(store: Store, notes: Notes) -> None:
    for _ in range(5):
        await asyncio.wait_for(store.run(operation()), LONG / 2)
    assert notes.groups == [1] * 5


@pytest.mark.usefixtures("patient")
async def test_callers_who_come_back_are_one_group(store: Store, notes: Notes) -> None:
    async def caller() -> None:
        while len(notes.groups) < 20:
            await store.run(operation())

    callers = [asyncio.ensure_future(caller()) for _ in range(8)]
    await asyncio.wait(callers, timeout=LONG / 2, return_when=asyncio.FIRST_COMPLETED)
    for one in callers:
        one.cancel()
    assert notes.groups[3:] == [8] * 17


async def test_a_group_does_not_wait_long_for_callers_who_left(store: Store, notes: Notes) -> None:
    await together(store, 8)
    await asyncio.wait_for(together(store, 2), LONG / 2)
    assert notes.groups == [1, 7, 2]


async def test_callers_who_come_one_after_the_other_are_gathered_until_the_deadline(
    store: Store, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 0.5)
    monkeypatch.setattr(module, "GAP_SECONDS", 0.4)
    await together(store, 8)
    calls = []
    for _ in range(3):
        calls.append(asyncio.ensure_future(store.run(operation())))
        await asyncio.sleep(0.25)
    await asyncio.wait_for(asyncio.gather(*calls), LONG / 2)
    assert notes.groups == [1, 7, 3]


async def test_every_caller_gets_the_answer_to_its_own_call(store: Store) -> None:
    answers = await asyncio.gather(*(store.run(operation(str(n))) for n in range(100)))
    assert answers == [(str(n),) for n in range(100)]


class Failing(Notes):
    """A database that has no room, then cannot be reached, and then has not what is asked for."""

    def carry_out(self, operations: Sequence[Operation]) -> list[Any]:
        kind = (StateFullError, StateError, NotFoundError)[min(len(self.groups), 2)]
        super().carry_out(operations)
        return [kind("no")] * len(operations)


async def test_errors_of_the_state_are_counted_and_callers_own_are_not() -> None:
    registry = CollectorRegistry()
    store = Store(Failing(), Worker("test"), Metrics(registry), 1)  # type: ignore[arg-type]
    for kind in (StateFullError, StateError, NotFoundError):
        with pytest.raises(kind):
            await store.run(operation())
    waiting = [asyncio.create_task(store.run(operation())) for _ in range(3)]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    await store.close()
    names = {reason: {"reason": reason} for reason in ("full", "unavailable", "overloaded")}
    counts = {reason: registry.get_sample_value("normserve_normalizer_errors_total", label) for reason, label in names.items()}
    refused = sum(isinstance(outcome, OverloadedError) for outcome in outcomes)
    assert counts == {"full": 1, "unavailable": 1, "overloaded": refused}
    assert refused
