"""Finding, loading and looking up, with a loader that the test holds in its hands."""

from pathlib import Path

import pytest
from normserve_server.errors import FailedVersionError, InvalidRequestError, NotFoundError
from normserve_server.metrics import Metrics
from normserve_server.repository import Repository
from normserve_server.session import LoadError
from normserve_server.version import Loaded
from prometheus_client import CollectorRegistry

REPORT = {
    "folded": 1,
    "left": 2,
    "norms": [{"reason": None}, {"reason": "blocked"}, {"reason": "blocked"}],
    "errors": [{"folded": 2e-7, "unfolded": 3e-7}, {"folded": 4e-7, "unfolded": None}],
}


class FakeServable:
    provider = "CPUExecutionProvider"
    signature = None


class FakeLoader:
    """Loads everything but what its name says."""

    async def load(self, folder: Path, labels: tuple[str, str], _config: object = None) -> Loaded:
        if labels[0] == "wrong":
            raise LoadError("the fold failed its proof")
        if labels[0] == "odd":
            raise IsADirectoryError(21, "Is a directory")
        return Loaded(FakeServable(), None, REPORT)  # type: ignore[arg-type]


@pytest.fixture
async def repository(tmp_path: Path) -> Repository:
    for folder in ("good/1", "good/2", "good/10", "good/01", "good/x", "wrong/1", "odd/1", "empty", ".hidden/1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "file").touch()
    repository = Repository(tmp_path, FakeLoader(), Metrics(CollectorRegistry(), "0"))  # type: ignore[arg-type]
    states: list[dict[str, str]] = []

    async def changed() -> None:
        states.append(repository.states())

    assert not repository.ready
    await repository.load_all(changed)
    assert set(states[0].values()) == {"LOADING"}
    assert len(states) == 4
    return repository


async def test_the_highest_version_serves_and_failures_stay_listed(repository: Repository) -> None:
    assert repository.states() == {"good/10": "READY", "odd/1": "UNAVAILABLE", "wrong/1": "UNAVAILABLE"}
    assert repository.serving("good").number == repository.serving("good", "10").number == "10"
    properties = repository.serving("good").properties
    assert (properties["batch_norms_left"], properties["batch_norms_left_because"]) == ("2", "blocked 2")
    assert properties["error_folded"] == "4e-07"
    assert "error_unfolded" not in properties  # it was not finite
    assert not repository.ready


@pytest.mark.parametrize(
    ("model", "reason"), [("wrong", "the fold failed its proof"), ("odd", "IsADirectoryError: .*directory")]
)
async def test_one_bad_model_has_its_reason(repository: Repository, model: str, reason: str) -> None:
    with pytest.raises(FailedVersionError, match=reason):
        repository.serving(model)


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
async def test_what_is_not_there(repository: Repository, model: str, number: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        repository.find(model, number)


async def test_every_change_counts(repository: Repository) -> None:
    # Three begin to load, one becomes ready and two fail.
    assert repository.changes == 6
