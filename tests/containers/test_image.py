"""What is in the image, and how large it is."""

import json
from typing import Any

import pytest
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
    tools = shell(docker, image, "command -v gcc cc pip pip3 make git /opt/normserve/bin/pip || true")
    assert tools == ""


def test_its_packages_fit_each_other(docker: Any, image: str) -> None:
    """As `pip check` would say, if it were there."""
    versions = json.loads(shell(docker, image, f"python3 -c '{VERSIONS}'"))
    for name, (_, requirements) in versions.items():
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate({"extra": "server" if name == "normserve" else ""}):
                version, _ = versions[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version, prereleases=True), f"{name} needs {requirement}"


def test_it_is_for_the_cpu_and_has_no_cuda(docker: Any, image: str) -> None:
    libraries = shell(docker, image, "find /opt/normserve -name '*cuda*.so*' -o -name '*cudnn*.so*' -o -name '*cublas*.so*'")
    assert "libonnxruntime_providers_cuda" not in libraries
    torch = shell(docker, image, "python3 -c 'import torch; print(torch.version.cuda)'")
    assert torch != "None" or libraries == ""  # whether torch has CUDA is its index's choice
