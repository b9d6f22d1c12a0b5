"""`normserve top` against a real server: printed once, as JSON, live on a terminal, and where it cannot be."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from normserve import Client
from normserve.cli import figures
from normserve.testing import free_port


@pytest.fixture
def server(digits_server, normserve):
    """The server, which has been called with three samples and has noticed, whatever others have called it with."""
    with Client(digits_server.grpc_address) as client:
        deadline = time.monotonic() + 30
        while not threes(shown(normserve, digits_server)):
            client.infer("digits", {"image": np.zeros((3, 1, 8, 8), np.float32)})
            assert time.monotonic() < deadline
    return digits_server


def threes(overview):
    """How many batches of three or four samples there were."""
    return sum(size["batches"] for size in overview["total"]["batch_sizes"] if size["from"] == 3)


def shown(normserve, server):
    code, out, err = normserve("top", "--json", "--address", server.http_address)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_once(normserve, server):
    code, out, err = normserve("top", "--once", "--minutes", 15, "--address", f"http://{server.http_address}/")
    assert (code, err) == (0, "")
    assert re.match(
        rf"normserve \S+ at http://{server.http_address}: ready; the last 15 minutes of which \d+ s are known\n", out
    )
    for words in (
        ("req/s", "p50", "p95", "p99"),
        ("whole request", "s"),
        ("compute",),
        ("OK",),
        ("3 to 4",),
        ("digits/1", "READY"),
    ):
        assert any(all(word in line for word in words) for line in out.splitlines()), words
    assert "8 of 8" in out
    assert "normserve.rms_norm" not in out  # nobody has called it


def test_where_the_output_is_no_terminal_it_is_printed_once(normserve, server):
    assert normserve("top", "--address", server.http_address)[1].count("whole request") == 1


def test_one_version_alone(normserve, server):
    code, out, _ = normserve("top", "--once", "--model", "digits/1", "--address", server.http_address)
    assert (code, "digits/1 alone" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--minutes", "7"], "--minutes: wanted 1, 5, 15 or 60, got 7"),
        (["--address", "ftp://here"], "--address: wanted http://HOST:PORT, got 'ftp://here'"),
        (["--address", ":8002"], "--address: wanted http://HOST:PORT, got ':8002'"),
        (["--model", "absent/1"], "--model: there is no 'absent/1'; there are digits/1"),
    ],
)
def test_wrong_input_is_2(normserve, digits_server, arguments, text):
    code, out, err = normserve("top", "--address", digits_server.http_address, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"normserve: {text}")


def test_nobody_there_is_1(normserve):
    code, _, err = normserve("top", "--address", f"127.0.0.1:{free_port()}")
    assert (code, err.count("\n")) == (1, 1)
    assert "Connection refused" in err


def test_the_grpc_port_is_1_and_says_so(normserve, digits_server):
    code, _, err = normserve("top", "--address", digits_server.grpc_address)
    assert (code, "is it the server's HTTP port?" in err) == (1, True)


@contextmanager
def answering(code: int, *bodies: bytes) -> Iterator[str]:
    """A server's address, which answers so: with one body after the other, then with 404 and that there is no such version."""
    left = list(bodies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code if left else 404)
            self.end_headers()
            self.wfile.write(left.pop(0) if left else b"model: there is no 'm/1'; there are none")

        def log_message(self, *_arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("code", "body", "text"),
    [
        (404, b"404: Not Found", "its server has no page, or is none of ours"),
        (200, b"<html>", "not HTTP and JSON"),
        (200, b"{}", "none of a normserve server's"),
    ],
)
def test_other_servers_are_1(normserve, code, body, text):
    with answering(code, body) as address:
        ended, _, err = normserve("top", "--address", address)
    assert (ended, text in err) == (1, True)


class Terminal:
    """A program on a terminal of 120 columns and 40 lines."""

    def __init__(self, *arguments: str) -> None:
        self.own, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        command = [sys.executable, "-m", "normserve.cli", *arguments]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.text = ""

    def until(self, condition: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition(self.text):
            assert time.monotonic() < deadline, self.text
            if select.select([self.own], [], [], 0.1)[0]:
                self.text += os.read(self.own, 65536).decode(errors="replace")

    def ended(self) -> int:
        """Its exit code; until then it is read, for what is full takes nothing more, and it would wait for room."""
        with suppress(OSError):  # nobody has the other side open any more
            self.until(lambda _: False)
        return self.process.wait(20)


def test_live_it_goes_on_until_ctrl_c(server):
    terminal = Terminal("top", "--interval", "0.2", "--address", server.http_address)
    try:
        terminal.until(lambda text: text.count("whole request") >= 3)
        terminal.process.send_signal(2)
        assert terminal.ended() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.own)
    assert "Traceback" not in terminal.text


def test_live_what_goes_is_said_and_asked_for_again(normserve, server):
    """A version, and then the server."""
    body = json.dumps(shown(normserve, server)).encode()
    with answering(200, body, body) as address:
        terminal = Terminal("top", "--interval", "0.2", "--address", address)
        terminal.until(lambda text: "trying again: --model: there is no 'm/1'" in text)
    try:
        terminal.until(lambda text: "refused" in text)
        assert terminal.process.poll() is None
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.own)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0000123, "12.3 µs"), (0.0021, "2.1 ms"), (0.25, "250 ms"), (1.0, "1 s"), (12.34, "12.3 s")],
)
def test_seconds(value, text):
    assert figures.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0, "0"), (4, "4"), (3.456, "3.46"), (123.4, "123"), (46679.0, "46,679")]
)
def test_numbers(value, text):
    assert figures.number(value) == text
