"""READY stays true only while an inference works."""

import asyncio

import pytest
from normserve_server.canary import Canary
from normserve_server.errors import InternalError
from normserve_server.load_request import LoadRequest


@pytest.fixture
async def canary(world) -> Canary:
    world.put("m/1")
    await world.control().start()
    canary = Canary(world.repository, 10, 5)
    await canary.look()
    return canary


async def test_every_version_is_asked_and_one_that_hangs_holds_up_no_other(world, canary: Canary) -> None:
    world.put("slow/1")
    await world.control().start()
    version, slow = world.repository.find("m"), world.repository.find("slow")
    hangs = asyncio.Event()
    slow.batcher.probe = lambda _timeout: hangs.wait()
    before = version.batcher.probes
    looking = asyncio.create_task(canary.look())
    for _ in range(3):
        await asyncio.sleep(0)
    assert version.batcher.probes == before + 1
    hangs.set()
    await looking


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InternalError("onnxruntime: no device"), "canary: onnxruntime: no device"),
        (TimeoutError(), "canary: no answer within 5 s"),
        (RuntimeError("odd"), "canary: RuntimeError: odd"),
    ],
)
async def test_who_fails_serves_no_more_until_it_works(world, canary: Canary, error: Exception, reason: str) -> None:
    version = world.repository.find("m")
    version.batcher.broken = error
    for _ in range(2):
        await canary.look()
        assert (version.state, version.reason, world.repository.ready) == ("UNAVAILABLE", reason, False)
    assert world.series() == {"m/1": 0}
    version.batcher.broken = None
    await canary.look()
    assert (version.state, version.reason, world.repository.ready) == ("READY", "", True)


@pytest.mark.parametrize("error", [None, InternalError("closed")])
async def test_who_was_unloaded_meanwhile_stays_so(world, canary: Canary, error: Exception | None) -> None:
    version = world.repository.find("m")

    async def probe(_timeout: float) -> None:
        await world.lifecycle.unload("m")
        if error:
            raise error

    version.batcher.probe = probe
    await canary.look()
    assert (version.state, version.reason) == ("UNAVAILABLE", "unloaded")
    await canary.look()
    assert version.reason == "unloaded"


async def test_a_version_that_fails_is_replaced_by_loading_it_again(world) -> None:
    world.put("m/1")
    control = world.control("explicit", load_model=("m",))
    await control.start()
    broken = world.repository.find("m")
    broken.batcher.broken = InternalError("no device")
    canary = Canary(world.repository, 10, 5)
    for _ in range(2):
        await canary.look()
    assert broken.state == "UNAVAILABLE"
    await control.load(LoadRequest("m"))
    assert world.repository.serving("m") is not broken


async def test_an_interval_of_zero_is_none(world) -> None:
    await Canary(world.repository, 0, 5).watch()
