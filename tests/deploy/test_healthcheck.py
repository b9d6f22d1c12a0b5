"""The script that containers are checked with, against an HTTP server that answers as ours does."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from normserve.testing import free_port

SCRIPT = Path(__file__).parents[2] / "deploy/healthcheck.py"


class LiveNotReady(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/health/live": 200, "/health/ready": 503}.get(self.path, 404))
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), LiveNotReady) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def run(check: str, port: int) -> subprocess.CompletedProcess[str]:
    environment = {"NORMSERVE_HTTP_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
    command = [sys.executable, "-I", str(SCRIPT), check]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=20, env=environment)


@pytest.mark.parametrize(("check", "status"), [("live", 0), ("ready", 1)])
def test_the_exit_status_is_the_answer(port: int, check: str, status: int) -> None:
    result = run(check, port)
    assert (result.returncode, result.stdout) == (status, f"/health/{check}\n")


def test_a_server_that_is_not_there_is_one_line() -> None:
    result = run("live", free_port())
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.startswith("ConnectionRefusedError")
    assert result.stdout.count("\n") == 1
