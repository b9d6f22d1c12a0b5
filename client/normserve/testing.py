"""For tests: a real server, as a process of its own, for the length of a `with`.

with running_server("models/repository") as server, Client(server.grpc_address) as client:
    client.infer("digits", {"image": image})
"""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

from normserve.server_process import ServerProcess, ServerStartError, free_port

__all__ = ["RunningServer", "ServerStartError", "free_port", "running_server"]


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers.

    Attributes:
        grpc_address: "host:port" for a `Client`.
        http_address: "host:port" of /health/live, /health/ready and /metrics.
        process: to signal it or to wait for it.
    """

    grpc_address: str
    http_address: str
    process: subprocess.Popen[Any]
    _server: ServerProcess

    @property
    def log(self) -> str:
        """The last lines that the server wrote."""
        return self._server.log


@contextmanager
def running_server(
    repository: str | PathLike[str],
    *,
    device: str = "cpu",
    host: str = "127.0.0.1",
    grpc_port: int = 0,
    http_port: int = 0,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    wait_until: Literal["ready", "live"] = "ready",
    timeout_s: float = 120,
) -> Iterator[RunningServer]:
    """Starts a server, waits for it, and at the end asks it by SIGTERM to drain and end.

    Args:
        repository: the folder of models.
        device: "auto", "cpu" or "cuda:N".
        host: the address to listen on.
        grpc_port: 0 for a free one.
        http_port: 0 for a free one.
        arguments: further flags of the server.
        environment: of the process, instead of this one's.
        wait_until: "live" also takes a server whose models do not load.
        timeout_s: seconds to wait for that.

    Yields:
        Its addresses and its process.

    Raises:
        ServerStartError: it ended or was not there in time; `log` has what it wrote.
    """
    grpc_address = f"{host}:{grpc_port or free_port(host)}"
    http_address = f"{host}:{http_port or free_port(host)}"
    flags = ["--repository", str(repository), "--device", device, "--host", host]
    flags += ["--grpc-port", grpc_address.rpartition(":")[2], "--http-port", http_address.rpartition(":")[2]]
    command = ("-m", "normserve_server", *flags, *arguments)
    server = ServerProcess(command, http_address=http_address, environment=environment)
    try:
        server.wait_until(wait_until, timeout_s)
        yield RunningServer(grpc_address, http_address, server.popen, server)
    finally:
        server.close()
