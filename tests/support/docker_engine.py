"""A Docker Engine of the tests' own: its images, containers and sockets are in a temporary folder, and go with it."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_S = 60
STOP_S = 120
FIRST_CLIENT_OF_BUILDX = 23


class Engine:
    """A running engine.

    Attributes:
        folder: holds all that it has.
        environment: of programs that are to talk to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The distribution's client, which is of the engine's version, before another one.
        self._client = shutil.which("docker", path=f"/usr/bin:{os.environ['PATH']}")
        self.environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{folder / 'socket'}",
            "DOCKER_CONFIG": str(folder),
            "BUILDKIT_PROGRESS": "plain",
        }
        self.environment["DOCKER_BUILDKIT"] = str(int(self._has_buildkit()))

    def docker(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Runs the client; what it prints is seen."""
        return subprocess.run([self._client, *arguments], check=True, text=True, env=self.environment, **options)

    def ask(self, *arguments: str) -> str:
        """What the client answers."""
        return self.docker(*arguments, stdout=subprocess.PIPE).stdout.strip()

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the client, which may fail."""
        command = [self._client, *arguments]
        return subprocess.run(command, check=False, text=True, env=self.environment, capture_output=True)

    def import_tree(self, tree: Path, tag: str, changes: Sequence[str] = ()) -> None:
        """Makes an image of a folder."""
        with subprocess.Popen(["tar", "--directory", tree, "--create", "."], stdout=subprocess.PIPE) as tar:
            flags = [flag for change in changes for flag in ("--change", change)]
            self.docker("import", *flags, "-", tag, stdin=tar.stdout, stdout=subprocess.DEVNULL)
        assert tar.returncode == 0

    def _has_buildkit(self) -> bool:
        version = subprocess.run([self._client, "--version"], check=True, capture_output=True, text=True).stdout.split()[2]
        buildx = subprocess.run([self._client, "buildx", "version"], check=False, capture_output=True)
        return int(version.split(".")[0]) < FIRST_CLIENT_OF_BUILDX or buildx.returncode == 0


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Asks until the answer is yes, which it gives."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "this did not come in time"
        time.sleep(0.5)
    return value


@contextmanager
def engine() -> Iterator[Engine]:
    """Starts one, and ends it with all of its containers and networks."""
    folder = Path(tempfile.mkdtemp(prefix="normserve-engine-"))
    try:
        with (folder / "log").open("w") as log:
            # It ends with its parent, however that ends, but not by a Ctrl-C, after which it is still needed to tidy up.
            command = ["setpriv", "--pdeathsig", "TERM", *_dockerd(folder)]
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            docker = Engine(folder)
            _wait_for(docker, process)
            try:
                yield docker
            finally:
                _remove_all(docker)
        finally:
            process.terminate()
            process.wait(STOP_S)
    finally:
        _unmount(folder)
        shutil.rmtree(folder)


def _dockerd(folder: Path) -> list[str]:
    # Without rules of its own in this machine's firewall, which would stay: ports are published by a process in between, and
    # what has to reach the internet, the build, shares the machine's network.
    places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    flags = [f"--{flag}={folder / name}" for flag, name in places.items()]
    network = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    return ["dockerd", f"--host=unix://{folder / 'socket'}", *flags, *network]


def _wait_for(docker: Engine, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while docker.attempt("version").returncode:
        log = (docker.folder / "log").read_text()
        assert process.poll() is None, f"dockerd ended:\n{log}"
        assert time.monotonic() < deadline, f"dockerd does not answer:\n{log}"
        time.sleep(0.2)


def _remove_all(docker: Engine) -> None:
    containers = docker.attempt("ps", "--all", "--quiet").stdout.split()
    if containers:
        docker.attempt("rm", "--force", "--volumes", *containers)
    docker.attempt("network", "prune", "--force")  # their bridges would stay behind the engine


def _unmount(folder: Path) -> None:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if Path(p).is_relative_to(folder)), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=True)  # what is mounted must not be deleted
