"""What is in the image, and how large it is."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docker_engine import until
from normserve import Client
from normserve.testing import free_port
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

VERSIONS = """
import json, re
from importlib import metadata
found = {re.sub("[-_.]+", "-", d.name).lower(): [d.version, d.requires or []] for d in metadata.distributions()}
print(json.dumps(found))
"""
LARGEST = "du --block-size=1M --max-depth=5 /opt/normserve/lib | sort --numeric-sort --reverse | head --lines=14"


def shell(docker: Any, image: str, command: str) -> str:
    return docker.ask("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", command)


def test_its_size_is_told(docker: Any, base_image: str, image: str) -> None:
    sizes = [int(docker.ask("image", "inspect", "--format", "{{.Size}}", name)) for name in (image, base_image)]
    print(f"\nimage {sizes[0] / 1e6:.0f} MB, of which the base image {sizes[1] / 1e6:.0f} MB")
    print(docker.ask("history", "--format", "{{.Size}}\t{{.CreatedBy}}", image))
    print(f"megabytes in the environment:\n{shell(docker, image, LARGEST)}")
    assert sizes[0] > sizes[1]


def test_it_holds_no_tools(docker: Any, image: str) -> None:
    tools = shell(docker, image, "for tool in gcc cc make git pip pip3; do command -v $tool; done || true")
    assert tools == ""


def test_its_packages_fit_each_other(docker: Any, image: str) -> None:
    """As `pip check` would say, if it were there."""
    versions = json.loads(shell(docker, image, f"python3 -c '{VERSIONS}'"))
    for name, (_, requirements) in versions.items():
        for requirement in map(Requirement, requirements):
            extras = ["server", "models"] if name == "normserve" else [""]
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
                version, _ = versions[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version, prereleases=True), f"{name} needs {requirement}"


def test_it_has_neither_cuda_nor_what_only_training_needs(docker: Any, image: str) -> None:
    packages = shell(docker, image, "ls /opt/normserve/lib/python3*/site-packages").split()
    assert {"torch", "onnxruntime", "normserve_server"} <= set(packages)
    assert not {"sklearn", "scipy"} & set(packages)
    found = shell(docker, image, "find /opt/normserve -name '*cuda*.so*' -o -name '*cudnn*.so*'").splitlines()
    ours = [
        path for path in found if "/torch/" not in path and "/nvidia/" not in path
    ]  # whether torch has it is its index's choice
    assert ours == []


def test_it_runs_alone_as_the_page_says(docker: Any, image: str, network: str, digits_repository: Path) -> None:
    models = docker.folder / "my-models"
    shutil.copytree(digits_repository, models)
    models.chmod(0o755)
    command = documented_command()
    assert command[-1] == image
    ports = {port: free_port() for port in (8001, 8002)}
    command = [re.sub(r"^127\.0\.0\.1:(\d+):", lambda m: f"127.0.0.1:{ports[int(m[1])]}:", word) for word in command]
    command = [word.replace("$PWD", str(docker.folder)) for word in command]
    container = docker.ask("run", "--detach", "--network", network, *command[2:])
    try:
        until(lambda: docker.ask("inspect", "--format", "{{.State.Health.Status}}", container) == "healthy")
        with Client(f"127.0.0.1:{ports[8001]}") as client:
            until(lambda: client.is_ready("digits"))
            assert client.infer("digits", {"image": np.zeros((1, 1, 8, 8), np.float32)})["logits"].shape == (1, 10)
        docker.docker("stop", container)
        assert docker.ask("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
        log = docker.attempt("logs", container)
        assert all(json.loads(line)["event"] for line in (log.stdout + log.stderr).splitlines())
    finally:
        docker.docker("rm", "--force", container)


def documented_command() -> list[str]:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    (block,) = (block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if block.startswith("docker run"))
    return shlex.split(block.replace("\\\n", " "))


@pytest.fixture
def network(docker: Any) -> Iterator[str]:
    """The engine has none of its own."""
    docker.docker("network", "create", "normserve-alone")
    yield "normserve-alone"
    docker.docker("network", "rm", "normserve-alone")
