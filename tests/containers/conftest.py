"""The image and the composition, on a Docker Engine of their own."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import debian
import pytest
import yaml
from docker_engine import Engine, engine
from normserve.testing import free_port
from pip_settings import pip_settings

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PROGRAMS = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap", "iptables": "iptables"}
BASE = "normserve-stand-in/python"
PROMETHEUS = "normserve-stand-in/prometheus"


def say(text: str) -> None:
    print(f"\n--- {text}", flush=True)


@dataclass(frozen=True)
class Composition:
    """Server and Prometheus, running.

    Attributes:
        engine: that they run on.
        environment: of docker-compose; the published ports are in it.
    """

    engine: Engine
    environment: dict[str, str]

    def compose(self, *arguments: str) -> str:
        files = ["--file", str(ROOT / "docker-compose.yml"), "--file", str(HERE / "override.yml")]
        command = ["docker-compose", *files, "--project-name", "normserve", *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=self.environment).stdout

    def container(self, service: str) -> str:
        return self.compose("ps", "--quiet", service).strip()

    def state(self, service: str, template: str) -> str:
        return self.engine.ask("inspect", "--format", template, self.container(service))

    def address(self, port: str) -> str:
        return f"127.0.0.1:{self.environment[port]}"

    def up(self) -> None:
        self.compose("up", "--detach", "--no-build", "server", "prometheus")
        deadline = time.monotonic() + 180
        while (health := self.state("server", "{{.State.Health.Status}}")) != "healthy":
            assert health == "starting", self.engine.ask("logs", self.container("server"))
            assert time.monotonic() < deadline, self.engine.ask("logs", self.container("server"))
            time.sleep(0.5)


@pytest.fixture(scope="session")
def docker() -> Iterator[Engine]:
    reason = debian.why_not(PROGRAMS)
    if reason is not None:
        pytest.skip(reason)
    say("the distribution's packages")
    debian.install(PROGRAMS)
    say("a Docker Engine")
    with engine() as running:
        print(running.ask("version", "--format", "engine {{.Server.Version}}, client {{.Client.Version}}"))
        print(
            running.ask("info", "--format", "storage {{.Driver}}, builder BuildKit: ") + running.environment["DOCKER_BUILDKIT"]
        )
        yield running


@pytest.fixture(scope="session")
def base_image(docker: Engine) -> Iterator[str]:
    """A Debian with Python, which finds packages where this machine does."""
    tree = docker.folder / "tree"
    say("a Debian, by debootstrap")
    debian.bootstrap(tree, "python3", "python3-venv")
    with pip_settings(f"/{debian.CERTIFICATES}") as settings:
        (tree / "etc/pip.conf").write_text(settings)
        docker.import_tree(tree, BASE, ["ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"])
        subprocess.run(["rm", "-rf", str(tree)], check=True)
        yield BASE


@pytest.fixture(scope="session")
def image(docker: Engine, base_image: str) -> str:
    """What the Dockerfile makes."""
    say("the image, by the Dockerfile")
    began = time.monotonic()
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    arguments = {name: value for name, value in services["server"]["build"]["args"].items() if "$" not in value}
    build(docker, "Dockerfile", services["server"]["image"], BASE_IMAGE=base_image, **arguments)
    say(f"the image took {time.monotonic() - began:.0f} s")
    return services["server"]["image"]


@pytest.fixture(scope="session")
def composition(docker: Engine, base_image: str, image: str) -> Iterator[Composition]:
    say("a Prometheus, from the distribution's package")
    build(docker, "tests/containers/Dockerfile.prometheus", PROMETHEUS, BASE_IMAGE=base_image)
    say("server and Prometheus, by docker-compose.yml")
    ports = {name: str(free_port()) for name in ("GRPC_PORT", "HTTP_PORT", "PROMETHEUS_PORT")}
    running = Composition(docker, {**docker.environment, **ports})
    try:
        running.up()
        yield running
    finally:
        say("what the server logged last, and down")
        print(running.compose("logs", "--no-color", "--tail", "12", "models", "server"))
        running.compose("down", "--volumes", "--timeout", "45")


def build(docker: Engine, dockerfile: str, tag: str, **arguments: str) -> None:
    flags = [flag for name, value in arguments.items() for flag in ("--build-arg", f"{name}={value}")]
    docker.docker("build", "--network", "host", *flags, "--tag", tag, "--file", str(ROOT / dockerfile), str(ROOT))
