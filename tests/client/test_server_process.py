"""Starting, watching and ending a server process, with small servers written for it."""

import io
import signal
import socket
import subprocess
import sys
import time

import pytest
from normserve.server_process import ServerProcess, ServerStartError
from normserve.testing import free_port, running_server

SERVER = """
import http.server, signal, sys, threading, time
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in sys.argv[2:] else 503)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health)
def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
    print("draining", flush=True)
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, stop)
print("started", file=sys.stderr, flush=True)
server.serve_forever()
server.server_close()
time.sleep(0.5)
print("stopped")
"""


@pytest.fixture
def start():
    """Starts a Python program as a server; ends it after the test."""
    started = []

    def start(program, *arguments, port=None):
        port = port or free_port()
        server = ServerProcess(["-c", program, str(port), *arguments], http_address=f"127.0.0.1:{port}")
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


def test_it_is_waited_for_and_drained(start):
    server = start(SERVER, "/health/live", "/health/ready")
    server.wait_until("live", 20)
    server.wait_until("ready", 20)
    server.stop()
    while "draining" not in server.log:
        time.sleep(0.01)
    server.stop()
    assert server.wait(20) == 0
    assert server.log == "started\ndraining\nstopped\n"


def test_live_is_not_ready(start):
    server = start(SERVER, "/health/live")
    server.wait_until("live", 20)
    with pytest.raises(ServerStartError, match=r"not ready after 0\.2 s") as caught:
        server.wait_until("ready", 0.2)
    assert caught.value.exit_code is None
    assert caught.value.log == "started\n"


def test_one_that_ends_says_its_last_line(start):
    server = start("import sys; print('long story'); sys.exit('port 8001: in use\\n')")
    with pytest.raises(ServerStartError, match=r"^port 8001: in use$") as caught:
        server.wait_until("ready", 20)
    assert caught.value.exit_code == 1
    assert "long story" in caught.value.log


def test_one_that_ends_without_a_word(start):
    with pytest.raises(ServerStartError, match="ended with code 3"):
        start("import sys; sys.exit(3)").wait_until("ready", 20)


def test_another_servers_answer_is_not_taken_for_its_own(start):
    port = free_port()
    start(SERVER, "/health/live", port=port).wait_until("live", 20)
    second = start("import sys, time; time.sleep(0.5); sys.exit('in use')", port=port)
    with pytest.raises(ServerStartError, match="in use"):
        second.wait_until("live", 20)


def test_the_log_is_passed_on_from_now_on(start):
    server = start(SERVER, "/health/live")
    server.wait_until("live", 20)
    stream = io.StringIO()
    server.forward_log(stream)
    server.stop()
    server.wait(20)
    assert stream.getvalue() == "draining\nstopped\n"


def test_one_that_does_not_end_is_killed():
    port = free_port()
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    server = ServerProcess(["-c", program], http_address=f"127.0.0.1:{port}")
    while "deaf" not in server.log:
        time.sleep(0.01)
    server.close(timeout_s=0.2)
    assert server.popen.returncode == -signal.SIGKILL


def test_ctrl_c_in_the_terminal_does_not_reach_it(start):
    server = start(SERVER, "/health/live")
    assert server.popen.pid == subprocess.os.getsid(server.popen.pid)


def test_free_ports_are_free():
    with socket.create_server(("127.0.0.1", free_port())):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give ports out by other rules")
def test_a_free_port_is_given_to_nobody_else_for_a_while():
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
        other.bind(("127.0.0.1", port))  # as strict as one who asks for any port
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_server_that_cannot_start_says_why(tmp_path):
    with pytest.raises(ServerStartError, match="missing") as caught, running_server(tmp_path / "missing"):
        pytest.fail("it started")
    assert caught.value.exit_code == 1


def test_a_server_with_an_empty_repository(tmp_path):
    with running_server(tmp_path, arguments=("--cache-dir", str(tmp_path / "cache"), "--no-built-in-models")) as server:
        from normserve import Client

        with Client(server.grpc_address) as client:
            assert client.is_live()
            assert client.models() == ()
        assert server.process.poll() is None
    assert server.process.returncode == 0
    assert "stopped" in server.log


def test_the_interpreter_is_this_one(start):
    server = start("import sys; sys.exit(sys.executable)")
    with pytest.raises(ServerStartError, match=sys.executable):
        server.wait_until("live", 20)
