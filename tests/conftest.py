"""What many tests need: the digits network in a repository, and one real server that serves it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from normserve.testing import RunningServer, running_server


@pytest.fixture(scope="session")
def digits_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that holds the digits network, unfolded, as `make run` builds it."""
    repository = tmp_path_factory.mktemp("repository")
    command = (sys.executable, "-m", "normserve_models.zoo.build", "--repository", str(repository), "digits")
    subprocess.run(command, check=True)
    return repository


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests' servers keep what they folded, so that it is folded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def digits_server(digits_repository: Path, cache_dir: Path) -> Iterator[RunningServer]:
    """A server process that serves the digits network, folded; shared, so tests must leave it as it is."""
    with running_server(digits_repository, arguments=("--cache-dir", str(cache_dir))) as server:
        yield server
