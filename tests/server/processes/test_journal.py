"""What a worker that comes later is told."""

from typing import Any

import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.shared_memory import LEASED
from normserve_server.processes.journal import Change, Journal, change_of


def change(method: str, **fields: Any) -> Change:
    made = change_of(method, getattr(pb, f"{method}Request")(**fields).SerializeToString())
    assert made is not None
    return made


def journal_of(*changes: Change) -> Journal:
    journal = Journal()
    for each in changes:
        journal.note(each)
        journal.settle(each, accepted=True)
    return journal


def load(name: str) -> Change:
    return change("RepositoryModelLoad", model_name=name)


def unload(name: str) -> Change:
    return change("RepositoryModelUnload", model_name=name)


def register(name: str, key: str = "/k") -> Change:
    return change("SystemSharedMemoryRegister", name=name, key=key, byte_size=8)


def unregister(name: str) -> Change:
    return change("SystemSharedMemoryUnregister", name=name)


def trace(model: str = "", **settings: list[str]) -> Change:
    values = {name: pb.TraceSettingRequest.SettingValue(value=value) for name, value in settings.items()}
    return change("TraceSetting", model_name=model, settings=values)


def log(**settings: bool) -> Change:
    values = {name: pb.LogSettingsRequest.SettingValue(bool_param=value) for name, value in settings.items()}
    return change("LogSettings", settings=values)


def test_of_a_model_the_last_word_counts() -> None:
    a, b, again, off = load("a"), load("b"), load("a"), unload("b")
    assert journal_of(a, b, again).changes == [b, again]
    assert journal_of(a, b, again, off).changes == [again, off]  # "off": a worker may load it by itself when it starts


def test_of_a_region_nothing_is_left_when_it_goes() -> None:
    a, b = register("a"), register("b")
    assert journal_of(a, b, unregister("a")).changes == [b]
    assert journal_of(a, b, load("m"), unregister("")).changes[0].subject == ("model", "m")
    assert journal_of(a, unregister("ab")).changes == [a]


def test_of_a_region_on_lease_nobody_is_told_later() -> None:
    assert journal_of(register(f"{LEASED}1"), register("a")).changes[0].subject == ("region", "a")


def test_settings_add_up() -> None:
    (kept,) = journal_of(trace(level=["A"], rate=["1"]), trace(level=["B"])).changes
    settings = pb.TraceSettingRequest.FromString(kept.data).settings
    assert {name: list(value.value) for name, value in settings.items()} == {"level": ["B"], "rate": ["1"]}
    assert len(journal_of(trace(level=["A"]), trace("m", level=["A"])).changes) == 2
    (kept,) = journal_of(log(log_info=True), log(log_error=False)).changes
    assert set(pb.LogSettingsRequest.FromString(kept.data).settings) == {"log_info", "log_error"}


def test_what_nobody_accepted_leaves_the_journal_as_it_was() -> None:
    first, failed = load("a"), load("a")
    journal = journal_of(first)
    journal.note(failed)
    assert journal.changes == [first, failed]  # on its way: whoever comes now is told both
    journal.settle(failed, accepted=False)
    assert journal.changes == [first]


def test_changes_of_one_thing_have_one_turn() -> None:
    assert load("a").turn == unload("a").turn != load("b").turn
    assert register("a").turn == unregister("").turn
    assert trace("", rate=["1"]).turn == trace("m", rate=["1"]).turn


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("ModelStatistics", b""),
        ("TraceSetting", b""),  # only asks
        ("LogSettings", b""),
        ("RepositoryModelLoad", b"\xff\xff"),  # each worker will refuse it
    ],
)
def test_what_changes_nothing_is_not_kept(method: str, data: bytes) -> None:
    assert change_of(method, data) is None
