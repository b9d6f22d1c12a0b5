"""Looking up, over whatever states there are."""

import pytest
from normserve_server.errors import FailedVersionError, InvalidRequestError, NotFoundError, UnavailableError
from normserve_server.version import READY, UNAVAILABLE, UNLOADING


@pytest.fixture
async def served(world):
    for path in ("good/1", "good/2", "good/10", "good/01/model.onnx", "good/x/model.onnx"):
        world.put(path)
    world.put("wrong/1", "bad")
    world.put("odd/1", "odd")
    (world.root / "empty").mkdir()
    assert not world.repository.ready
    await world.control().start()
    return world


async def test_the_highest_version_serves_and_failures_stay_listed(served) -> None:
    assert served.states() == {"good/10": "READY", "odd/1": "UNAVAILABLE", "wrong/1": "UNAVAILABLE"}
    find = served.repository.serving
    assert find("good").number == find("good", "10").number == "10"
    properties = find("good").properties
    assert (properties["batch_norms_left"], properties["batch_norms_left_because"]) == ("2", "blocked 2")
    assert properties["error_folded"] == "4e-07"
    assert "error_unfolded" not in properties  # it was not finite
    assert not served.repository.ready


@pytest.mark.parametrize(
    ("model", "reason"), [("wrong", "the fold failed its proof"), ("odd", "IsADirectoryError: .*directory")]
)
async def test_one_bad_model_has_its_reason(served, model: str, reason: str) -> None:
    with pytest.raises(FailedVersionError, match=reason):
        served.repository.serving(model)


@pytest.mark.parametrize(
    ("model", "number", "error", "text"),
    [
        ("none", "", NotFoundError, "no model 'none'; the repository has good, odd, wrong"),
        ("good", "3", NotFoundError, "no version 3 of model 'good'; there is 10"),
        ("good", "9" * 100, NotFoundError, "no version 9+ of model"),
        ("good", "latest", InvalidRequestError, "version of model 'good' is an integer, got 'latest'"),
        ("good", "-1", InvalidRequestError, "is an integer"),
    ],
)
async def test_what_is_not_there(served, model: str, number: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        served.repository.find(model, number)


async def test_without_a_version_the_highest_that_serves_answers(world) -> None:
    world.put("m/config.pbtxt", "version_policy { all { } }")
    for number, content in (("1", "one"), ("2", "two"), ("3", "bad")):
        world.put(f"m/{number}", content)
    await world.control().start()
    repository = world.repository
    assert world.states() == {"m/1": "READY", "m/2": "READY", "m/3": "UNAVAILABLE"}
    assert world.content("m") == "two"
    assert repository.ready  # a newer version that fails takes nobody out of rotation
    repository.change(repository.find("m", "2"), UNLOADING)
    assert world.content("m") == "one"
    repository.change(repository.find("m", "1"), UNAVAILABLE, "canary: broken")
    assert not repository.ready
    with pytest.raises(FailedVersionError, match="version 3 is UNAVAILABLE: the fold failed"):
        repository.serving("m")
    with pytest.raises(UnavailableError, match="version 1 is UNAVAILABLE: canary: broken") as refusal:
        repository.serving("m", "1")
    assert refusal.value.retry_after_ms is None  # this may pass
    with pytest.raises(UnavailableError, match=r"version 2 is UNLOADING$"):
        repository.serving("m", "2")


async def test_a_model_whose_versions_are_not_known_yet_is_loading(world) -> None:
    world.repository.entry("m")
    with pytest.raises(UnavailableError, match="model 'm' is loading"):
        world.repository.serving("m")


async def test_every_change_counts_and_reaches_the_metrics(world) -> None:
    world.put("m/1")
    await world.control().start()
    version, before = world.repository.find("m"), world.repository.changes
    assert world.series() == {"m/1": 1}
    world.repository.change(version, UNAVAILABLE, "x")
    assert (world.series(), world.repository.changes) == ({"m/1": 0}, before + 1)
    world.repository.change(version, READY)
    assert world.series() == {"m/1": 1}
