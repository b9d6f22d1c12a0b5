"""Other model servers, each in an environment of its own, and how they are started with one ONNX file."""

import json
import os
import subprocess
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from normserve.testing import free_port

from serving_tools.errors import BenchmarkError
from serving_tools.models import OUT, Model
from serving_tools.other_servers import Process
from serving_tools.report import NOTICE
from serving_tools.subjects import INFER, call

FOLDER = OUT / "rivals"
CODE = Path(__file__).parents[1] / "rival_servers"
ONNXRUNTIME = "onnxruntime==1.31.1"  # the version that we run
START_SECONDS = 90


@dataclass(frozen=True)
class Command:
    """How a server is started.

    Attributes:
        arguments: behind its environment's `bin/`.
        environment: variables beside ours.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Rival:
    """A server.

    Attributes:
        title: what it is called, with its version.
        folder: of its environment.
        packages: that are installed there.
        command: makes the command from a model, its file and the gRPC port.
    """

    title: str
    folder: str
    packages: Sequence[str]
    command: Callable[[Model, Path, int], Command]


def mlserver(model: Model, file: Path, port: int) -> Command:
    """One process, without access log; more processes would add a hop to each call."""
    folder = FOLDER / "mlserver_repository"
    folder.mkdir(parents=True, exist_ok=True)
    ports = {"grpc_port": port, "http_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))
    described = {"name": model.name, "implementation": "mlserver_runtime.OnnxRuntime", "parameters": {"uri": str(file)}}
    (folder / "model-settings.json").write_text(json.dumps(described))
    return Command(["mlserver", "start", str(folder)], {"PYTHONPATH": str(CODE)})


def kserve(model: Model, file: Path, port: int) -> Command:
    """Without a line of log for each call."""
    flags = ["--grpc_port", str(port), "--http_port", str(free_port())]
    return Command(["python", str(CODE / "kserve_model.py"), model.name, str(file), *flags], {"KSERVE_LOGLEVEL": "WARNING"})


RIVALS = {
    "mlserver": Rival("MLServer 1.7.1", "mlserver", ["mlserver==1.7.1", "uvloop==0.21.0", ONNXRUNTIME], mlserver),
    "kserve": Rival("KServe 0.21", "kserve", ["kserve==0.21.*", ONNXRUNTIME], kserve),
}


@contextmanager
def serving(rival: Rival, model: Model, file: Path) -> Iterator[Process]:
    """A rival that answers for a model, as a process of its own.

    Raises:
        BenchmarkError: its environment cannot be made, or it does not answer in time; the text has the end of its log.
    """
    environment = install(rival)
    port = free_port()
    command = rival.command(model, file, port)
    log = FOLDER / f"{rival.folder}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [str(environment / "bin" / command.arguments[0]), *command.arguments[1:]],
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=FOLDER,
            env={**_clean(os.environ), **command.environment},
        )
    try:
        address = f"127.0.0.1:{port}"
        _wait(rival, process, address, model, log)
        yield Process(address, process.pid)
    finally:
        _end(process)


def install(rival: Rival) -> Path:
    """Makes a rival's environment where it is missing or was made of other packages; returns its folder."""
    folder = FOLDER / rival.folder
    stamp = folder / "packages.json"
    if stamp.exists() and json.loads(stamp.read_text()) == list(rival.packages):
        return folder
    NOTICE.print(f"installing {rival.title} into {folder}")
    venv.create(folder, clear=True, with_pip=True)
    command = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *rival.packages,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=_clean(os.environ))
    if done.returncode:
        raise BenchmarkError(f"{rival.title} cannot be installed: {done.stderr.strip()[-1000:]}")
    stamp.write_text(json.dumps(rival.packages))
    return folder


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what would bring our own packages into a rival's environment."""
    return {name: value for name, value in environment.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}


def _wait(rival: Rival, process: subprocess.Popen[bytes], address: str, model: Model, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            call(address, INFER, model.request())
        except grpc.RpcError as error:
            last = error
            time.sleep(0.2)
        else:
            return
    raise BenchmarkError(f"{rival.title} does not answer: {last if process.poll() is None else ''}\n{log.read_text()[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
