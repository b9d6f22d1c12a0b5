"""A disk that is full while a version is prepared: the old one serves, the reason is told, and nothing half made is left."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from background_load import background_load
from normserve import Client, InternalError
from normserve.testing import RunningServer, running_server

MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Takes what is left of the disk but a few pages, as a file."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 16 * 1024))
    return ballast


def publish_second(repository: Path) -> None:
    """The same network in a file of another content, so that it is prepared anew."""
    model = onnx.load(repository / "digits/1/model.onnx")
    model.doc_string = "the second"
    (repository / "digits/2").mkdir()
    onnx.save(model, repository / "digits/2/model.onnx")


def states(client: Client) -> dict[str, str]:
    return {entry.version: entry.state for entry in client.models()}


def made(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


@pytest.fixture
def server(digits_repository: Path, small_disk: Path, tmp_path: Path) -> Iterator[RunningServer]:
    shutil.copytree(digits_repository, tmp_path / "repository")
    flags = ("--cache-dir", str(small_disk / "cache"), "--model-control-mode", "explicit", "--load-model", "digits")
    with running_server(tmp_path / "repository", arguments=flags) as server:
        yield server


def test_a_full_disk_is_the_new_versions_problem_alone(server: RunningServer, small_disk: Path, tmp_path: Path) -> None:
    cache = small_disk / "cache"
    first = made(cache)
    with background_load(server.grpc_address) as load, Client(server.grpc_address) as client:
        ballast = fill(small_disk)
        publish_second(tmp_path / "repository")
        with pytest.raises(InternalError, match="No space left on device"):
            client.load_model("digits")
        load.goes_on()
        assert states(client) == {"1": "READY", "2": "UNAVAILABLE"}
        assert client.is_ready()
        assert made(cache) == first

        ballast.unlink()
        client.load_model("digits")
        assert states(client)["2"] == "READY"
        assert len(made(cache)) == 2
