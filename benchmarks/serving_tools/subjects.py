"""Everything that can answer a model's requests: this process, the echo, the bare handler, and our server as it is started."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import grpc
from normserve.testing import free_port, running_server

from serving_tools import figures, h2load, models
from serving_tools.errors import NoSuchFlagError
from serving_tools.figures import Turn
from serving_tools.h2load import Load
from serving_tools.models import OUT, Model
from serving_tools.other_servers import PATH, UNLIMITED, Process, open_session, other_server

INFER = "/inference.GRPCInferenceService/ModelInfer"
COLLECTOR = "COLLECTOR"  # stands in a server's flags for the endpoint of a collector of spans
ECHO, BARE, SERVER = "echo", "bare handler", "normserve"


@dataclass(frozen=True)
class Remote:
    """A server process that takes a model's request.

    Attributes:
        process: where and who it is.
        path: of the method.
        body: file with the request, as h2load sends it.
        answer_bytes: size of the answer's message.
    """

    process: Process
    path: str
    body: Path
    answer_bytes: int

    def turn(self, callers: int, connections: int) -> Turn:
        """A turn of it; all turns of a comparison have the same callers and connections."""
        load = Load(self.process.address, self.path, self.body, self.answer_bytes, callers, connections)
        return figures.remote(load, self.process.pid)


@contextmanager
def remotes(
    model: Model, servers: Mapping[str, Sequence[str]], common_flags: Sequence[str] = ()
) -> Iterator[dict[str, Remote]]:
    """Starts our server once for each set of flags, and the echo and the bare handler beside them.

    Args:
        model: the only one in the repository.
        servers: flags by the name of the subject.
        common_flags: of all of them.

    Yields:
        The subjects, which answer.

    Raises:
        NoSuchFlagError: our server does not know one of the flags.
    """
    check_flags([flag for flags in servers.values() for flag in flags])
    source = models.build(model, OUT / "repositories" / model.name)
    body = h2load.write_body(model.request(), OUT / "requests" / model.name)
    with ExitStack() as stack:
        endpoint = f"http://{stack.enter_context(other_server('collector', free_address())).address}"
        ours = {
            name: stack.enter_context(our_server(source.parents[2], [*common_flags, *_with(endpoint, flags)]))
            for name, flags in servers.items()
        }
        size = len(call(next(iter(ours.values())).address, INFER, model.request()))
        echo = stack.enter_context(other_server("echo", free_address(), size))
        bare = stack.enter_context(other_server("bare", free_address(), models.folded(model.name, source), model.threads))
        bare_size = len(call(bare.address, PATH, model.request()))
        yield {
            ECHO: Remote(echo, PATH, body, size),
            BARE: Remote(bare, PATH, body, bare_size),
            **{name: Remote(process, INFER, body, size) for name, process in ours.items()},
        }


@contextmanager
def our_server(repository: Path, flags: Sequence[str], cache: Path = OUT / "cache") -> Iterator[Process]:
    """Our server, ready; what it folds is kept in `cache`."""
    fixed = ("--cache-dir", str(cache), "--log-level", "warning")
    with running_server(repository, arguments=[*fixed, *flags]) as server:
        yield Process(server.grpc_address, server.process.pid)


def _with(endpoint: str, flags: Sequence[str]) -> list[str]:
    return [endpoint if flag == COLLECTOR else flag for flag in flags]


def in_process(model: Model, batch_sizes: Sequence[int]) -> dict[str, Turn]:
    """The session alone, in this process, on the same folded file: a subject for each batch size."""
    session = open_session(OUT / "folded" / model.name / "model.onnx", model.threads)
    runs = {size: partial(session.run, None, {model.input_name: model.samples(size)}) for size in batch_sizes}
    return {f"in-process, batch {size}": figures.local(figures.timed(run), size) for size, run in runs.items()}


def call(address: str, path: str, request: bytes) -> bytes:
    """Calls once, with a client that tells a refused call from an answered one."""
    with grpc.insecure_channel(address, UNLIMITED) as channel:
        method: Any = channel.unary_unary(path)
        return bytes(method(request, timeout=60))


def check_flags(flags: Sequence[str]) -> None:
    """Looks for flags in what our server says of itself.

    Raises:
        NoSuchFlagError: it does not know one.
    """
    for flag in flags:
        if flag.startswith("--") and flag not in server_help():
            raise NoSuchFlagError(f"the server has no flag {flag}")


@cache
def server_help() -> str:
    command = [sys.executable, "-m", "normserve_server", "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def free_address() -> str:
    """A "host:port" where nobody listens now."""
    return f"127.0.0.1:{free_port()}"
