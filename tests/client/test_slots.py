"""Slots of shared memory: whose they are, how long they have a name, and when they are used again."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from normserve import slots
from normserve.slots import Pool, Slot
from normserve_proto import shared_memory as posix


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(posix, "FOLDER", str(tmp_path))
    return tmp_path


@pytest.fixture
def pool() -> Iterator[Pool]:
    yield Pool()
    gc.collect()


def take(pool: Pool, byte_size: int = 1) -> Slot:
    slot = pool.take(byte_size)
    assert slot is not None
    slot.registered = True
    return slot


def test_an_object_is_its_users_and_has_a_name_until_it_is_hidden(folder: Path) -> None:
    slot = Slot(5000)
    path = folder / slot.key.removeprefix("/")
    assert (path.stat().st_mode & 0o777, path.stat().st_size) == (0o600, 5000)
    assert path.stat().st_blocks * 512 >= 5000  # real, so that no write fails later
    slot.write(4990, b"0123456789")
    assert path.read_bytes()[4990:] == bytes(slot.memory()[4990:]) == b"0123456789"
    slot.hide()
    slot.hide()
    assert not path.exists()


def test_a_lease_lasts_as_long_as_its_slot() -> None:
    slot = Slot(1)
    others = posix.open_object(slot.key)
    assert not posix.lease_is_over(others)
    del slot
    gc.collect()
    assert posix.lease_is_over(others)
    os.close(others)


def test_the_first_slot_of_a_client_removes_what_killed_ones_left(folder: Path, pool: Pool) -> None:
    used = Slot(1)
    for name in ("normserve-lease-1-dead", "normserve-lease-2-dead", "normserve-other"):
        (folder / name).touch()
    (folder / "normserve-lease-folder").mkdir()  # whose name is in the way; it stays, and does no harm
    slot = take(pool)
    left = {used.name, slot.name, "normserve-other", "normserve-lease-folder"}
    assert {path.name for path in folder.iterdir()} == left


def test_what_others_users_left_is_theirs(folder: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "normserve-lease-1-dead").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    take(pool)
    assert (folder / "normserve-lease-1-dead").exists()


def test_an_object_that_was_removed_before_it_was_held_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_lease = posix.take_lease

    def late(descriptor: int) -> None:
        monkeypatch.setattr(posix, "take_lease", take_lease)
        posix.tidy()
        take_lease(descriptor)

    monkeypatch.setattr(posix, "take_lease", late)
    assert [path.name for path in folder.iterdir()] == []
    slot = Slot(1)
    assert [path.name for path in folder.iterdir()] == [slot.name]


def test_the_lease_comes_before_the_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fallocate = os.posix_fallocate

    def tidied(descriptor: int, offset: int, size: int) -> None:
        posix.tidy()
        fallocate(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", tidied)
    assert (folder / Slot(1).name).exists()


@pytest.mark.parametrize(("module", "name"), [(os, "posix_fallocate"), (posix, "take_lease")])
def test_what_cannot_be_made_leaves_nothing(folder: Path, module, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(module, name, fail)
        with pytest.raises(OSError, match="No space"):
            Slot(1)
    assert not list(folder.iterdir())


def test_slots_are_used_again_where_they_are_large_enough(pool: Pool) -> None:
    slot = take(pool, 1000)
    assert slot.byte_size == 1024
    pool.give_back(slot)
    assert take(pool, 1024) is slot
    pool.give_back(slot)
    larger = take(pool, 1025)
    assert larger is not slot
    assert pool.dropped() == [slot.name]
    assert pool.dropped() == []


def test_nobody_gets_a_slot_that_another_call_uses(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MOST_SLOTS", 2)
    one, other = take(pool), take(pool)
    assert one is not other
    assert pool.take(1) is None
    pool.drop(one)
    third = take(pool)
    assert third is not one
    pool.give_back(other)
    pool.give_back(third)
    assert sorted(pool.empty()) == sorted([one.name, other.name, third.name])


def test_what_is_lent_comes_back_with_its_last_view(pool: Pool) -> None:
    slot = take(pool)
    memory = slot.memory()
    view = np.frombuffer(memory[:1].data, np.uint8).reshape(1, 1).T
    assert pool.lend(slot, memory)
    del memory
    assert take(pool) is not slot
    buffer = view.data
    del view
    assert take(pool) is not slot
    del buffer
    assert take(pool) is slot


def test_not_all_slots_are_lent(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MOST_LENT", 1)
    one, other = take(pool), take(pool)
    kept = one.memory()
    assert pool.lend(one, kept)
    assert not pool.lend(other, other.memory())
    pool.give_back(other)
    assert sorted(pool.empty()) == sorted([one.name, other.name])
    assert kept[0] == 0
    del kept
    again = take(pool)
    assert pool.lend(again, again.memory())


def test_a_slot_that_could_not_be_made_is_none_of_the_limit(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MOST_SLOTS", 1)
    with monkeypatch.context() as broken:
        broken.setattr(posix, "FOLDER", "/no/such/folder")
        with pytest.raises(FileNotFoundError):
            pool.take(1)
    take(pool)
    assert pool.take(1) is None
