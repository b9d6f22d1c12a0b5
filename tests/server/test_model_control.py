"""What is loaded in which mode, and when."""

import asyncio
import shutil
from pathlib import Path

import pytest
from normserve_server.errors import ControlError, InvalidRequestError, ModelLoadError, NotFoundError
from normserve_server.load_request import LoadRequest
from normserve_server.version import Version


def settled(world) -> bool:
    return set(world.states().values()) <= {"READY", "UNAVAILABLE"}


class TestPoll:
    async def test_what_comes_changes_and_goes_is_followed(self, world) -> None:
        world.put("m/1", "one")
        world.put("gone/1")
        control = world.control("poll")
        await control.start()
        assert world.states() == {"gone/1": "READY", "m/1": "READY"}
        world.put("m/2", "two")
        world.put("new/1")
        shutil.rmtree(world.root / "gone")
        await control.poll()
        await world.until(lambda: world.states() == {"m/2": "READY", "new/1": "READY"})
        assert world.content("m") == "two"
        assert world.series() == {"m/2": 1, "new/1": 1}
        shutil.rmtree(world.root / "m/2")
        await control.poll()
        await world.until(lambda: world.states() == {"m/1": "READY", "new/1": "READY"})
        loads = len(world.loader.loads)
        await control.poll()
        assert (len(world.loader.loads), settled(world)) == (loads, True)

    async def test_what_failed_is_tried_again_once_it_has_changed(self, world) -> None:
        control = world.control("poll")
        await control.start()
        world.put("m/1", "bad")  # half of it is copied
        await control.poll()
        await world.until(lambda: world.states() == {"m/1": "UNAVAILABLE"})
        await control.poll()
        assert len(world.loader.loads) == 1
        assert world.repository.ready  # who comes later and has never served takes nobody out of rotation
        world.put("m/1", "whole")
        await control.poll()
        await world.until(lambda: world.states() == {"m/1": "READY"})

    async def test_a_model_that_is_at_it_is_left_for_the_next_look(self, world) -> None:
        control = world.control("poll")
        await control.start()
        world.put("m/1", "slow one")
        await control.poll()
        await world.until(lambda: world.states() == {"m/1": "LOADING"})
        world.put("m/2", "two")
        world.put("n/1")
        await control.poll()
        await world.until(lambda: world.states() == {"m/1": "LOADING", "n/1": "READY"})
        world.loader.gate.set()
        await control._background.finish()
        assert world.states() == {"m/1": "READY", "n/1": "READY"}
        await control.poll()
        await world.until(lambda: world.states() == {"m/2": "READY", "n/1": "READY"})

    async def test_a_repository_that_is_away_unloads_nothing(self, world) -> None:
        world.put("m/1")
        control = world.control("poll", repository_poll_seconds=0.001)
        await control.start()
        world.root.rename(world.root.with_name("away"))
        watching = asyncio.create_task(control.watch())
        await asyncio.sleep(0.05)
        assert world.states() == {"m/1": "READY"}
        world.root.with_name("away").rename(world.root)
        world.put("m/2")
        await world.until(lambda: world.states() == {"m/2": "READY"})
        watching.cancel()

    async def test_a_second_model_of_a_name_leaves_the_first_one(self, world, tmp_path) -> None:
        world.put("m/1")
        other = tmp_path / "other"
        other.mkdir()
        control = world.control("poll", (world.root, other))
        await control.start()
        world.put("m/9", root=other)
        await control.poll()
        await world.until(lambda: "two repositories" in world.reason("m"))
        assert world.states() == {"m/1": "READY"}
        shutil.rmtree(other / "m")
        await control.poll()
        await world.until(lambda: not world.reason("m"))
        assert len(world.loader.loads) == 1


class TestStart:
    async def test_a_name_in_two_repositories_serves_from_neither(self, world, tmp_path) -> None:
        world.put("m/1")
        world.put("n/1")
        for path in ("m/2", "o/1"):
            world.put(path, root=tmp_path / "other")
        control = world.control("none", (world.root, tmp_path / "other"))
        await control.start()
        assert world.states() == {"m/2": "UNAVAILABLE", "n/1": "READY", "o/1": "READY"}
        assert "stands in two repositories" in world.reason("m")
        assert not world.repository.ready

    async def test_nobody_is_ready_before_all_have_been_tried(self, world) -> None:
        world.put("m/1", "slow")
        world.put("n/1")
        starting = asyncio.create_task(world.control().start())
        await world.until(lambda: world.states() == {"m/1": "LOADING", "n/1": "READY"})
        assert not world.repository.ready
        world.loader.gate.set()
        await starting
        assert world.repository.ready

    async def test_mode_none_does_not_watch(self, world) -> None:
        await asyncio.wait_for(world.control().watch(), 5)

    @pytest.mark.parametrize(("mode", "hint"), [("none", "mode is 'none'"), ("poll", "mode is 'poll'")])
    async def test_callers_load_in_mode_explicit_alone(self, world, mode: str, hint: str) -> None:
        world.put("m/1")
        control = world.control(mode)
        await control.start()
        for refused in (control.load(LoadRequest("m")), control.unload("m")):
            with pytest.raises(ControlError, match=f"{hint}; load and unload need --model-control-mode explicit"):
                await refused


class TestExplicit:
    @pytest.mark.parametrize(("names", "ready"), [((), set()), (("m",), {"m/1"}), (("*",), {"m/1", "n/2"})])
    async def test_the_start_loads_what_is_named_and_lists_the_rest(self, world, names, ready) -> None:
        world.put("m/1")
        world.put("n/1")
        world.put("n/2")
        await world.control("explicit", load_model=names).start()
        assert {key for key, state in world.states().items() if state == "READY"} == ready
        assert world.states().keys() == {"m/1", "n/2"}
        assert world.series().keys() == ready
        assert world.repository.ready

    async def test_load_unload_and_what_is_listed_between(self, world) -> None:
        world.put("m/1")
        control = world.control("explicit")
        await control.start()
        assert world.reason("m") == "not loaded"
        await control.load(LoadRequest("m"))
        world.put("m/2")
        world.put("n/1")
        await control.look()
        assert world.states() == {"m/1": "READY", "n/1": "UNAVAILABLE"}
        await control.unload("m")
        assert (world.states(), world.reason("m")) == ({"m/1": "UNAVAILABLE", "n/1": "UNAVAILABLE"}, "unloaded")
        assert world.repository.ready
        await control.unload("m")  # nothing to do
        shutil.rmtree(world.root / "m/1")
        await control.look()
        assert (world.states(), world.reason("m")) == ({"m/2": "UNAVAILABLE", "n/1": "UNAVAILABLE"}, "not loaded")

    async def test_a_caller_that_leaves_does_not_end_the_loading(self, world) -> None:
        world.put("m/1", "slow")
        control = world.control("explicit")
        await control.start()
        loading = asyncio.create_task(control.load(LoadRequest("m")))
        await world.until(lambda: world.states() == {"m/1": "LOADING"})
        loading.cancel()
        world.loader.gate.set()
        await world.until(lambda: world.states() == {"m/1": "READY"})

    async def test_a_stop_does(self, world) -> None:
        world.put("m/1", "slow")
        control = world.control("explicit")
        await control.start()
        loading = asyncio.create_task(control.load(LoadRequest("m")))
        await world.until(lambda: world.states() == {"m/1": "LOADING"})
        await control.close()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert world.states() == {"m/1": "UNAVAILABLE"}

    async def test_what_fails_leaves_what_serves(self, world, tmp_path) -> None:
        world.put("m/1", "one")
        (world.root / "empty").mkdir()
        control = world.control("explicit", load_model=("m",))
        await control.start()
        world.put("m/2", "bad")
        for request, error, text in (
            (LoadRequest("m"), ModelLoadError, "model 'm' does not load: version 2: the fold failed its proof"),
            (LoadRequest("m", config="nonsense"), InvalidRequestError, "model 'm': config: "),
            (LoadRequest("m", config='{"name": "n"}'), InvalidRequestError, "name"),
            (LoadRequest("m", config="{}", files={3: {"model.onnx": b"bad"}}), ModelLoadError, "version 3"),
            (LoadRequest("n"), NotFoundError, "no model 'n'"),
            (LoadRequest("m", repository="other"), NotFoundError, "no repository 'other'"),
            (LoadRequest("empty"), ModelLoadError, "there is no version in"),
        ):
            with pytest.raises(error, match=text):
                await control.load(request)
            assert world.content("m") == "one"
        assert world.repository.ready
        with pytest.raises(NotFoundError, match="no model 'empty'"):
            await control.unload("empty")

    async def test_files_that_came_with_the_call_go_with_what_they_made(self, world, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        left = lambda: sorted(path.name for path in tmp_path.glob("normserve-*/*/*"))  # noqa: E731
        world.put("m/1", "disk")
        control = world.control("explicit", load_model=("m",))
        await control.start()
        files = {1: {"model.onnx": b"sent"}, 2: {"model.onnx": b"two"}, 3: {"model.onnx": b"three"}}
        policy = '{"version_policy": {"specific": {"versions": [2, 3]}}}'
        for _ in range(2):  # the second one changes nothing
            await control.load(LoadRequest("m", config=policy, files=files))
            await world.until(lambda: world.states() == {"m/2": "READY", "m/3": "READY"})
            assert left() == ["2", "3"]
        with pytest.raises(ModelLoadError):
            await control.load(LoadRequest("m", config=policy, files={2: {"model.onnx": b"bad"}}))
        assert (world.content("m", "2"), left()) == ("two", ["2", "3"])
        await control.load(LoadRequest("m"))
        await world.until(lambda: world.states() == {"m/1": "READY"})
        assert world.content("m") == "disk"
        assert not list(tmp_path.glob("normserve-*"))
        await control.load(LoadRequest("sent", config="{}", files=files))
        assert world.content("sent") == "three"
        await control.unload("sent")
        assert "sent" not in world.repository.models()  # it is nowhere any more
        assert not list(tmp_path.glob("normserve-*"))


async def test_a_folder_with_a_built_in_models_name_is_noted_and_not_served(world) -> None:
    built_in = Version("taken", "1", Path(), built_in=True)
    world.repository.put(built_in)
    world.put("m/1")
    folder = world.put("taken/1").parent
    control = world.control("poll")
    await control.start()
    world.repository.change(built_in, "READY", built_in.reason)
    assert world.loader.loads == [("m", "1")]
    assert world.states() == {"m/1": "READY", "taken/1": "READY"}
    assert world.reason("taken") == f"{folder} is not served: the name is a built-in model's"
    shutil.rmtree(folder)
    await control.poll()
    assert world.reason("taken") == ""
    world.put("taken/2")
    await control.poll()
    assert world.reason("taken").startswith(str(folder))
    assert world.states() == {"m/1": "READY", "taken/1": "READY"}
    await control.close()
