from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError, NotFoundError, UnavailableError
from normserve_server.introspection import IntrospectionServicer
from normserve_server.metrics import Metrics
from normserve_server.repository import Repository
from normserve_server.statistics import Laps, Statistics
from normserve_server.version import LOADING, READY, Loaded, Version
from prometheus_client import CollectorRegistry

RUN = Laps(input=0.001, infer=0.5, output=0.0002)


def version(model: str, number: int, state: str = READY) -> Version:
    loaded = Loaded(SimpleNamespace(), SimpleNamespace(), config=pb.ModelConfig(name=model, max_batch_size=8))  # type: ignore[arg-type]
    return Version(model, str(number), Path(), state, loaded=loaded if state == READY else None)


@pytest.fixture
def repository() -> Repository:
    """A real one, with versions that have nothing behind them."""
    made = Repository(Metrics(CollectorRegistry()))
    for one in (version("a", 1), version("a", 2), version("a", 3, LOADING), version("b", 1), version("c", 1, LOADING)):
        made.put(one)
    return made


async def statistics(repository: Repository, name: str = "", number: str = "") -> tuple[list[Any], Call]:
    call = Call("ModelStatistics")
    answer = await IntrospectionServicer(repository, lambda: None).ModelStatistics(
        pb.ModelStatisticsRequest(name=name, version=number), call
    )
    return list(answer.model_stats), call


@pytest.mark.parametrize(
    ("name", "number", "wanted", "labels"),
    [
        ("", "", [("a", "1"), ("a", "2"), ("b", "1")], ("", "")),
        ("a", "", [("a", "1"), ("a", "2")], ("", "")),
        ("a", "02", [("a", "2")], ("a", "2")),
    ],
)
async def test_whose_statistics(repository, name: str, number: str, wanted: list, labels: tuple) -> None:
    found, call = await statistics(repository, name, number)
    assert [(entry.name, entry.version) for entry in found] == wanted
    assert (call.model, call.version) == labels  # of the repository, not of the caller


@pytest.mark.parametrize(
    ("name", "number", "error"),
    [
        ("x", "", NotFoundError),
        ("a", "9", NotFoundError),
        ("a", "one", InvalidRequestError),
        ("", "1", InvalidRequestError),
        ("a", "3", UnavailableError),
        ("c", "", UnavailableError),
    ],
)
async def test_statistics_that_are_not_there(repository, name: str, number: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await statistics(repository, name, number)


async def test_what_statistics_tell(repository) -> None:
    kept: Statistics = repository.find("b").statistics
    kept.executed(4, RUN)
    kept.executed(1, RUN)
    for samples in (1, 3, 1):
        kept.answered(samples, 0.25, RUN, 0.75)
    kept.failed(0.125)
    ((found,), _) = await statistics(repository, "b")
    assert (found.inference_count, found.execution_count) == (5, 2)
    assert found.last_inference == kept.last_inference_ms > 1.7e12
    stats = found.inference_stats
    assert (stats.success.count, stats.success.ns) == (3, 2_250_000_000)
    assert (stats.fail.count, stats.fail.ns) == (1, 125_000_000)
    assert (stats.queue.count, stats.queue.ns) == (3, 750_000_000)
    assert (stats.compute_input.count, stats.compute_input.ns) == (3, 3_000_000)
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (3, 1_500_000_000)
    assert (stats.compute_output.count, stats.compute_output.ns) == (3, 600_000)
    assert (stats.cache_hit.count, stats.cache_miss.count) == (0, 0)
    assert [(batch.batch_size, batch.compute_infer.count, batch.compute_infer.ns) for batch in found.batch_stats] == [
        (1, 1, 500_000_000),
        (4, 1, 500_000_000),
    ]


async def test_a_config_is_the_loaded_versions(repository) -> None:
    servicer, call = IntrospectionServicer(repository, lambda: None), Call("ModelConfig")
    answer = await servicer.ModelConfig(pb.ModelConfigRequest(name="a", version="1"), call)
    assert (answer.config.name, answer.config.max_batch_size) == ("a", 8)
    assert (call.model, call.version) == ("a", "1")
    with pytest.raises(NotFoundError):
        await servicer.ModelConfig(pb.ModelConfigRequest(name="x"), call)
    with pytest.raises(UnavailableError):
        await servicer.ModelConfig(pb.ModelConfigRequest(name="c"), call)
