"""The programs in examples/ run, one after the other on one server, twice."""

import subprocess
import sys
from pathlib import Path

import pytest
from normserve import Client
from normserve.testing import running_server

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    arguments = ("--cache-dir", str(folder / "cache"), "--state", str(folder / "state.db"))
    with running_server(folder, arguments=arguments) as server:
        yield server


def run(name, server):
    program = next(path for path in EXAMPLES if path.stem == name)
    command = [sys.executable, "-W", "error", str(program), "--address", server.grpc_address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_each_has_a_test_here():
    assert [path.stem for path in EXAMPLES] == ["feature_pipeline", "shared_observations"]


def test_actors_that_share_the_statistics_of_what_they_observe(server):
    for _ in range(2):
        printed = run("shared_observations", server)
        assert "3 actors have made 150 updates" in printed
        assert "are those of all 2400 observations" in printed
    with Client(server.grpc_address) as client:
        assert client.normalizer("example-observations").state_dict()["count"] == 2400


def test_a_pipeline_that_trains_and_serves_by_one_normalizer(server):
    for _ in range(2):
        trained, served, own = run("feature_pipeline", server).splitlines()
        assert trained.startswith("trained after 20 updates: ")
        shares = [float(line.rpartition(": ")[2].partition("%")[0]) for line in (trained, served, own)]
        assert shares[0] > 95
        assert shares[1] > 95
        assert shares[2] < 60
