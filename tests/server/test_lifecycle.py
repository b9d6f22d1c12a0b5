"""Swaps, step by step, with a loader and batchers that the test holds in its hands."""

import asyncio
import gc
import weakref

import grpc
import pytest
from normserve_server import recording
from normserve_server.calls import Answered, Call
from normserve_server.repository_scan import scan


async def load(world, model: str = "m", *, again: bool = False) -> str:
    return await world.lifecycle.load(model, scan([world.root])[model], again=again)


async def test_the_old_version_serves_until_the_new_one_does_and_then_finishes(world) -> None:
    world.put("m/1", "old")
    assert await load(world) == ""
    old = world.repository.find("m")
    busy = old.batcher
    busy.idle.clear()
    world.put("m/2", "slow new")
    loading = asyncio.create_task(load(world))
    await world.until(lambda: "m/2" in world.states())
    assert world.states() == {"m/1": "READY", "m/2": "LOADING"}
    assert world.content("m") == "old"
    world.loader.gate.set()
    assert await loading == ""  # although the old one is not done
    assert world.content("m") == "slow new"
    assert world.states() == {"m/1": "UNLOADING", "m/2": "READY"}
    assert world.series() == {"m/1": 0, "m/2": 1}
    busy.idle.set()
    await world.until(lambda: world.states() == {"m/2": "READY"})
    assert world.series() == {"m/2": 1}
    assert (busy.closed, old.loaded) == (1, None)


async def test_a_version_that_fails_leaves_the_old_one(world) -> None:
    world.put("m/1", "old")
    await load(world)
    world.put("m/2", "bad")
    assert await load(world) == "version 2: the fold failed its proof"
    assert world.states() == {"m/1": "READY", "m/2": "UNAVAILABLE"}
    assert (world.content("m"), world.reason("m", "2")) == ("old", "the fold failed its proof")
    world.put("m/2", "mended")
    assert await load(world) == ""
    assert world.content("m") == "mended"


async def test_a_changed_version_of_the_same_number_is_a_fresh_one(world) -> None:
    world.put("m/1", "old")
    await load(world)
    old, batcher = world.repository.find("m"), world.repository.find("m").batcher
    world.put("m/1", "bad")
    assert await load(world) == "version 1: the fold failed its proof"
    assert world.states() == {"m/1": "READY"}
    assert (world.content("m"), world.reason("m")) == ("old", "the fold failed its proof")
    world.put("m/1", "newer")
    assert await load(world) == ""
    assert (world.content("m"), world.reason("m")) == ("newer", "")
    assert world.repository.find("m") is not old
    await world.lifecycle._departures.finish()
    assert old.loaded is None
    assert batcher.closed == 1
    assert (world.states(), world.series()) == ({"m/1": "READY"}, {"m/1": 1})


async def test_swaps_are_counted_by_how_they_went_and_first_loads_are_none(world) -> None:
    def swaps() -> dict[str, float | None]:
        value = world.metrics.registry.get_sample_value
        return {
            outcome: value("normserve_model_swaps_total", {"model": "m", "outcome": outcome}) for outcome in ("done", "failed")
        }

    world.put("m/1", "bad")
    await load(world)
    assert swaps() == {"done": None, "failed": None}
    world.put("m/1", "old")
    await load(world)
    assert swaps() == {"done": 0, "failed": 0}  # so that the first one is an increase
    world.put("m/2", "bad")
    await load(world)
    world.put("m/2", "new")
    await load(world)
    assert swaps() == {"done": 1, "failed": 1}
    world.put("m/config.pbtxt", "no such field")
    await load(world)
    assert swaps() == {"done": 1, "failed": 2}
    await world.lifecycle.unload("m", forget=True)
    assert swaps() == {"done": None, "failed": None}


async def test_a_state_is_one_of_all_that_a_version_has_had(world) -> None:
    def states() -> dict[str, float]:
        (family,) = world.metrics.model_state.collect()
        return {sample.labels["state"]: sample.value for sample in family.samples}

    world.put("m/1", "slow")
    loading = asyncio.create_task(load(world))
    await world.until(lambda: "m/1" in world.states())
    assert states() == {"LOADING": 1}
    world.loader.gate.set()
    await loading
    assert states() == {"LOADING": 0, "READY": 1}
    await world.lifecycle.unload("m")
    assert states() == {"LOADING": 0, "READY": 0, "UNLOADING": 0, "UNLOADED": 1}
    await world.lifecycle.unload("m", forget=True)
    assert states() == {}


async def test_what_has_not_changed_is_not_loaded_again_unless_it_failed_and_somebody_asks(world) -> None:
    world.put("m/1")
    for again in (False, True, False):
        assert await load(world, again=again) == ""
    assert len(world.loader.loads) == 1
    world.put("m/2", "bad")
    await load(world)
    assert await load(world) == ""
    assert len(world.loader.loads) == 2
    assert await load(world, again=True) == "version 2: the fold failed its proof"
    assert world.loader.loads[2:] == [("m", "2")]


async def test_a_changed_config_reloads_and_a_broken_one_does_not(world) -> None:
    world.put("m/1", "one")
    world.put("m/2", "two")
    await load(world)
    world.put("m/config.pbtxt", "nonsense")
    assert "config.pbtxt" in await load(world)
    assert world.states() == {"m/2": "READY"}
    assert "config.pbtxt" in world.reason("m")
    world.put("m/config.pbtxt", "max_batch_size: 8 version_policy { all { } }")
    assert await load(world) == ""
    assert world.states() == {"m/1": "READY", "m/2": "READY"}
    assert (world.reason("m"), world.loader.configs[-1].max_batch_size) == ("", 8)
    world.put("m/config.pbtxt", "version_policy { specific { versions: [1, 7] } }")
    assert "version 7: " in await load(world)
    await world.until(lambda: "m/2" not in world.states())
    assert world.states() == {"m/1": "READY", "m/7": "UNAVAILABLE"}
    assert "No such file" in world.reason("m", "7")


async def test_a_broken_version_pushes_none_out_of_the_latest_two(world) -> None:
    world.put("m/config.pbtxt", "version_policy { latest { num_versions: 2 } }")
    world.put("m/1")
    world.put("m/2")
    await load(world)
    world.put("m/3", "bad")
    await load(world)
    assert world.states() == {"m/1": "READY", "m/2": "READY", "m/3": "UNAVAILABLE"}
    world.put("m/3", "mended")
    await load(world)
    await world.until(lambda: world.states() == {"m/2": "READY", "m/3": "READY"})


async def test_loads_of_one_model_wait_for_each_other_and_two_models_do_not(world) -> None:
    world.put("m/1", "slow")
    world.put("n/1")
    first, second = asyncio.create_task(load(world)), asyncio.create_task(load(world))
    await world.until(lambda: world.states() == {"m/1": "LOADING"})
    assert await load(world, "n") == ""
    assert world.states() == {"m/1": "LOADING", "n/1": "READY"}
    world.loader.gate.set()
    assert await asyncio.gather(first, second) == ["", ""]
    assert world.loader.loads.count(("m", "1")) == 1


async def test_unloading_finishes_what_was_accepted(world) -> None:
    world.put("m/1")
    await load(world)
    batcher = world.repository.find("m").batcher
    batcher.idle.clear()
    unloading = asyncio.create_task(world.lifecycle.unload("m"))
    await world.until(lambda: world.states() == {"m/1": "UNLOADING"})
    unloading.cancel()  # whoever asked for it leaves
    with pytest.raises(asyncio.CancelledError):
        await unloading
    batcher.idle.set()
    await world.until(lambda: world.states() == {"m/1": "UNAVAILABLE"})
    assert (world.reason("m"), world.series(), batcher.closed) == ("unloaded", {"m/1": 0}, 1)
    assert world.loader.given_back == 1  # by the devices, too
    assert await load(world) == ""
    assert world.states() == {"m/1": "READY"}


async def test_a_version_comes_back_while_it_is_leaving(world) -> None:
    world.put("m/config.pbtxt", "version_policy { specific { versions: 1 } }")
    world.put("m/1", "one")
    await load(world)
    leaving = world.repository.find("m")
    leaving.batcher.idle.clear()
    batcher = leaving.batcher
    for number in ("2", "1"):
        world.put("m/2", "two")
        world.put("m/config.pbtxt", f"version_policy {{ specific {{ versions: {number} }} }}  ")
        assert await load(world) == ""
    assert world.content("m", "1") == "one"
    assert world.repository.find("m", "1") is not leaving
    batcher.idle.set()
    await world.lifecycle._departures.finish()
    assert leaving.loaded is None
    await world.until(lambda: world.states() == {"m/1": "READY"})
    assert world.series() == {"m/1": 1}


async def test_a_version_that_comes_back_broken_while_it_is_leaving_stays_listed(world) -> None:
    for number, content in (("1", "one"), ("2", "two"), ("1", "bad")):
        world.put(f"m/{number}", content)
        world.put("m/config.pbtxt", f"version_policy {{ specific {{ versions: {number} }} }} # {content}")
        if number == "2":
            leaving = world.repository.find("m")
            leaving.batcher.idle.clear()
            batcher = leaving.batcher
        await load(world)
    batcher.idle.set()
    await world.lifecycle._departures.finish()
    assert leaving.loaded is None
    assert world.states() == {"m/1": "UNAVAILABLE", "m/2": "READY"}
    assert world.reason("m", "1") == "the fold failed its proof"


async def test_what_serves_is_let_go_although_somebody_knows_the_version(world) -> None:
    world.put("m/1")
    await load(world)
    version = world.repository.find("m")
    servable = weakref.ref(version.loaded.servable)
    await world.lifecycle.unload("m")
    gc.collect()
    assert servable() is None


async def test_a_model_that_is_gone_is_forgotten_with_its_series(world, monkeypatch) -> None:
    monkeypatch.setattr(recording, "FLUSH_SECONDS", 60)
    world.put("m/1")
    await load(world)
    for model in "mn":
        call = Call("ModelInfer")
        call.model, call.version = model, "1"
        world.recorder.note(Answered(call, grpc.StatusCode.OK, 0.1, 1, 1))  # answered, and not yet recorded
    await world.lifecycle.unload("m", forget=True)
    world.recorder.flush()
    assert (world.states(), world.series(), world.repository.models()) == ({}, {}, {})
    assert {sample.labels["model"] for sample in world.metrics.requests.collect()[0].samples} == {"n"}


async def test_stopping_while_versions_leave_waits_for_them(world) -> None:
    world.put("m/1")
    await load(world)
    batcher = world.repository.find("m").batcher
    batcher.idle.clear()
    world.put("m/2")
    await load(world)
    stopping = asyncio.create_task(world.lifecycle.unload_all())
    await world.until(lambda: world.states() == {"m/1": "UNLOADING", "m/2": "UNAVAILABLE"})
    assert not stopping.done()
    batcher.idle.set()
    await stopping
    assert (world.states(), batcher.closed) == ({"m/2": "UNAVAILABLE"}, 1)
