"""A normserve server as a child process: start it, wait until it is ready, pass its log on, end it gently."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TextIO

_POLL_S = 0.05
_KEPT_LINES = 500


class ServerStartError(RuntimeError):
    """A server that ended, or was not ready in time, instead of serving.

    Attributes:
        exit_code: the code it ended with; None if it was still running.
        log: what it had written, stdout and stderr together.
    """

    def __init__(self, message: str, *, exit_code: int | None, log: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.log = log


class ServerProcess:
    """One server process, in a session of its own, so that the terminal's Ctrl-C reaches it only through its parent.

    Args:
        arguments: behind `python`, such as `("-m", "normserve_server", "--repository", "models")`.
        http_address: "host:port" of its health checks.
        environment: of the process; None for ours.

    Attributes:
        popen: the process.
        stopping: whether it was asked to stop.
    """

    def __init__(self, arguments: Sequence[str], *, http_address: str, environment: Mapping[str, str] | None = None) -> None:
        self.http_address = http_address
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._forward_to: TextIO | None = None
        self.stopping = False
        # Somebody else's answer on that port must not be taken for this server's.
        self._port_taken = _answers(http_address)
        self.popen = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        """The last lines that the server wrote, stdout and stderr together."""
        return "".join(self._lines)

    def wait_until(self, check: str, timeout_s: float) -> None:
        """Waits for a health check.

        Args:
            check: "live" or "ready".
            timeout_s: seconds.

        Raises:
            ServerStartError: the process ended, with its last line as the text; or the time passed.
        """
        deadline = time.monotonic() + timeout_s
        while self._port_taken or not self._healthy(check):
            if self.popen.poll() is not None:
                raise self._ended()
            if time.monotonic() > deadline:
                raise ServerStartError(f"the server is not {check} after {timeout_s:g} s", exit_code=None, log=self.log)
            time.sleep(_POLL_S)

    def forward_log(self, stream: TextIO) -> None:
        """Passes on what the server writes from now on."""
        self._forward_to = stream

    def stop(self) -> None:
        """Asks the server to finish what it accepted and to end; the first call counts."""
        if not self.stopping:
            self.stopping = True
            self.popen.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for the end and gives the exit code; negative is the number of the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        code = self.popen.wait(timeout_s)
        self._reader.join(timeout=5)  # a child of the server's may hold the pipe longer than that
        return code

    def close(self, timeout_s: float = 30) -> None:
        """Ends the process, by force where it does not end in time."""
        self.stop()
        try:
            self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.wait()

    def _read(self) -> None:
        assert self.popen.stdout is not None  # noqa: S101 - opened as a pipe above
        with self.popen.stdout as lines:
            for line in lines:
                self._lines.append(line)
                if self._forward_to is not None:
                    self._forward_to.write(line)
                    self._forward_to.flush()

    def _healthy(self, check: str) -> bool:
        connection = http.client.HTTPConnection(self.http_address, timeout=1)
        try:
            connection.request("GET", f"/health/{check}")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _ended(self) -> ServerStartError:
        code = self.wait()
        last = next((line.strip() for line in reversed(self._lines) if line.strip()), "")
        return ServerStartError(last or f"the server ended with code {code}", exit_code=code, log=self.log)


def free_port(host: str = "127.0.0.1") -> int:
    """Finds a TCP port that nobody listens on now.

    A connection to it has just been closed from its side. So for a minute the system gives it to nobody who asks for any port,
    and yet lets whoever asks for this one listen there.
    """
    with socket.create_server((host, 0)) as probe, socket.create_connection(probe.getsockname()[:2]):
        accepted, _ = probe.accept()
        accepted.close()
        port: int = probe.getsockname()[1]
        return port


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False
