"""The load of the benchmarks: what h2load did is read exactly, and a call that failed is never counted as a fast one."""

import shutil

import numpy as np
import pytest
from normserve.testing import free_port
from serving_tools import figures, h2load
from serving_tools.errors import LoadError
from serving_tools.h2load import Answers, Load
from serving_tools.other_servers import PATH, other_server

needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed (Debian: nghttp2-client)")
SIZE = 1000


@pytest.fixture(scope="module")
def echo():
    with other_server("echo", f"127.0.0.1:{free_port()}", SIZE) as process:
        yield process


@pytest.fixture
def load(echo, tmp_path):
    return Load(echo.address, PATH, h2load.write_body(b"request", tmp_path / "body"), SIZE, callers=4, connections=2)


def changed(load, **changes):
    return Load(**{**vars(load), **changes})


@needs_h2load
def test_so_many_calls_at_such_a_pace(load) -> None:
    answers = h2load.run(load, calls=100, calls_per_second=400)
    assert len(answers.starts) == len(answers.latencies) == 100
    assert (answers.latencies > 0).all()
    assert answers.starts.max() - answers.starts.min() > 0.15


@needs_h2load
def test_a_turn_of_a_server_counts_its_calls_and_its_processor_time(load, echo) -> None:
    figure = figures.remote(load, echo.pid)(0.5)
    assert figure.rate > 50
    assert 0 < figure.p50_ms <= figure.p99_ms
    assert 0 < figure.cpu_us < 1e6


@needs_h2load
def test_a_refused_call_is_not_an_answer(load) -> None:
    """HTTP says 200 to it."""
    with pytest.raises(LoadError, match="refused or answered otherwise"):
        h2load.run(changed(load, path="/bench.Other/Nothing"), calls=20)


@needs_h2load
@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_an_answer_of_another_size_is_not_the_answer(load, size) -> None:
    with pytest.raises(LoadError, match="answered otherwise"):
        h2load.run(changed(load, answer_bytes=size), calls=5_000)


@needs_h2load
def test_a_server_that_is_not_there(load) -> None:
    with pytest.raises(LoadError):
        h2load.run(changed(load, address=f"127.0.0.1:{free_port()}"), calls=4)


@needs_h2load
def test_callers_that_cannot_be_spread(load) -> None:
    with pytest.raises(LoadError, match="3 connections"):
        h2load.run(changed(load, connections=3), calls=4)


def test_without_h2load_the_package_is_named(load, monkeypatch) -> None:
    monkeypatch.setattr(h2load, "PROGRAM", "h2load-that-is-not-there")
    with pytest.raises(LoadError, match="nghttp2-client"):
        h2load.run(load, calls=1)


def test_the_rate_of_answers_that_come_in_batches() -> None:
    """Ten batches of four, one each 100 ms: the first ends the start, the others took 0.9 s."""
    ends = np.repeat(np.arange(1, 11) / 10, 4)
    assert figures.answer_rate(Answers(ends - 0.05, np.full(40, 0.05)), 4, 1.2) == pytest.approx(40)


def test_the_rate_of_fewer_answers_than_that_can_be_told_from() -> None:
    assert figures.answer_rate(Answers(np.zeros(3), np.ones(3)), 4, 1.5) == pytest.approx(2)
