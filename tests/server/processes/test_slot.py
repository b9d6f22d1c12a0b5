"""Who dies is replaced; the processes are stand-ins that die when they are told to."""

import asyncio
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from normserve_server.calls import now
from normserve_server.ports import StartError
from normserve_server.processes import slot
from normserve_server.processes.slot import Slot, wait_seconds


class FakeChild:
    def __init__(self, words: Path) -> None:
        self.slot, self.pid = 0, 1
        self.place = SimpleNamespace(last_words=words)
        self.met = True
        self.opened: float | None = None
        self.signals: list[signal.Signals] = []
        self.silent = asyncio.Event()
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def ended(self) -> int:
        return await self.code

    async def hangs(self) -> None:
        await self.silent.wait()

    async def close(self) -> None:
        pass

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if not self.code.done():
            self.code.set_result(-number)


class Keeper:
    """A slot with its children."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, opens: bool = True) -> None:
        self.children: list[FakeChild] = []
        self.replaced: list[bool] = []
        self.words = folder / "0.error"
        self.waits: list[int] = []
        monkeypatch.setattr(slot, "wait_seconds", lambda died_young: self.waits.append(died_young) or 0.0)
        self.slot = Slot(0, self.start, self.join, lambda _, replaced: self.replaced.append(replaced))  # type: ignore[arg-type]
        self.opens = opens
        self.fails = 0
        self.keeping = asyncio.create_task(self.slot.keep())

    async def start(self, _number: int) -> FakeChild:
        if self.fails:
            self.fails -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.children.append(FakeChild(self.words))
        return self.children[-1]

    async def join(self, child: FakeChild) -> None:
        child.opened = now() if self.opens else None

    async def child(self, count: int) -> FakeChild:
        """The child of that number, once it is there and has joined."""
        async with asyncio.timeout(5):
            while len(self.children) < count or self.slot.child is None:  # noqa: ASYNC110 - the slot tells nobody
                await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        return self.children[count - 1]


@pytest.fixture
async def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    return Keeper(tmp_path, monkeypatch)


async def test_who_dies_is_replaced(keeper: Keeper) -> None:
    first = await keeper.child(1)
    first.code.set_result(-9)
    await keeper.child(2)
    keeper.slot.end(signal.SIGTERM)
    assert await keeper.keeping == -signal.SIGTERM
    assert keeper.replaced == [True, False]


@pytest.mark.parametrize("words", ["device: there is no cuda:9", None])
async def test_a_first_worker_that_cannot_start_ends_it_all_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str | None
) -> None:
    keeper = Keeper(tmp_path, monkeypatch, opens=False)
    if words:
        keeper.words.write_text(words)
    (await keeper.child(1)).code.set_result(1)
    with pytest.raises(StartError, match=words or "worker 0 ended with exit code 1 before it served"):
        await asyncio.wait_for(keeper.keeping, 5)


async def test_later_ones_that_cannot_start_are_tried_again_and_ever_later(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, code in enumerate((0, 1, 1, 1), start=1):
        child = await keeper.child(number)
        keeper.opens = False
        child.code.set_result(code)
    keeper.opens = True
    child = await keeper.child(5)
    monkeypatch.setattr(slot, "YOUNG_SECONDS", 0.0)  # it has grown old
    child.code.set_result(-11)
    await keeper.child(6)
    keeper.slot.end(signal.SIGKILL)
    await keeper.keeping
    assert keeper.waits == [1, 2, 3, 4, 0]


async def test_a_system_that_starts_no_process_is_asked_again(keeper: Keeper) -> None:
    first = await keeper.child(1)
    keeper.fails = 2
    first.code.set_result(-9)
    await keeper.child(2)
    keeper.slot.end(signal.SIGTERM)
    await keeper.keeping
    assert keeper.waits == [1, 2, 3]


async def test_a_worker_that_is_stopped_before_it_was_met_has_ended_well(keeper: Keeper) -> None:
    (await keeper.child(1)).met = False
    keeper.slot.end(signal.SIGTERM)
    assert await keeper.keeping == 0


async def test_who_hangs_is_killed_and_replaced(keeper: Keeper) -> None:
    first = await keeper.child(1)
    first.silent.set()
    await keeper.child(2)
    keeper.slot.end(signal.SIGTERM)
    await keeper.keeping
    assert first.signals == [signal.SIGKILL]


async def test_the_end_does_not_wait_for_a_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(tmp_path, monkeypatch)
    monkeypatch.setattr(slot, "wait_seconds", lambda _: 1000.0)
    (await keeper.child(1)).code.set_result(-9)
    await asyncio.sleep(0)
    keeper.slot.end(signal.SIGTERM)
    async with asyncio.timeout(5):
        assert await keeper.keeping == 0


def test_the_wait_grows_to_a_limit() -> None:
    assert [wait_seconds(deaths) for deaths in (0, 1, 2, 3, 7, 100)] == [0.0, 0.5, 1.0, 2.0, 30.0, 30.0]
