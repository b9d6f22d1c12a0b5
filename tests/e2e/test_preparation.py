"""A version is prepared by a program of its own, which a server that answers calls starts."""

import os
from pathlib import Path

import pytest
from normserve.testing import running_server

WORKERS = (pytest.param((), id="alone"), pytest.param(("--workers", "2"), id="2 workers"))


@pytest.mark.parametrize("flags", WORKERS)
def test_grpc_does_not_follow_the_fork(flags: tuple[str, ...], digits_repository: Path, tmp_path: Path) -> None:
    # With its half in the child, one connection of some thousands is read by both, and one child of a hundred aborts.
    said = {**os.environ, "GRPC_VERBOSITY": "INFO"}
    arguments = ("--cache-dir", str(tmp_path / "fresh"), "--log-level", "info", *flags)
    with running_server(digits_repository, arguments=arguments, environment=said) as server:
        assert "ready" in server.log
        assert "fork" not in server.log
