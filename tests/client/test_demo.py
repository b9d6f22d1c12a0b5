"""`normserve demo`, whole: a real server, real digits, and the signals that end it."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from normserve.testing import free_port


@pytest.fixture
def ports():
    return free_port(), free_port()


@pytest.fixture
def demo(tmp_path, cache_dir, ports):
    """Starts the demo with its output going to a file; ends what is left of it, and thereby its server."""
    log = tmp_path / "demo.txt"
    started = []

    def start(repository, *, leader=(), **options):
        command = [*leader, sys.executable, "-m", "normserve.cli", "demo", "--repository", str(repository)]
        command += ["--grpc-port", str(ports[0]), "--http-port", str(ports[1])]
        environment = os.environ | {"NORMSERVE_CACHE_DIR": str(cache_dir), "NORMSERVE_DEVICE": "cpu"}
        with log.open("w") as output:
            options = {"stdout": output, "stderr": subprocess.STDOUT} | options
            process = subprocess.Popen(command, env=environment, **options)
        started.append(process)
        return process, log

    yield start
    for process in started:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def wait_for(log, text, process, seconds=100):
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_answers_and_serves_until_it_is_told_to_end(demo, digits_repository, ports):
    process, log = demo(digits_repository)
    wait_for(log, "serving until Ctrl-C", process)
    text = log.read_text()
    assert len(re.findall(r"│ (\d) +│ \1 +│ \d+\.\d% +│ \d+\.\d+ +│", text)) >= 7  # label, the same answer, confidence, ms
    assert f"page     http://127.0.0.1:{ports[1]}/\n" in text
    assert f"http://127.0.0.1:{ports[1]}/metrics" in text
    call = re.search(r"^call +(.*)$", text, re.MULTILINE)[1]
    pasted = subprocess.run(["sh", "-c", call], capture_output=True, text=True, check=True, timeout=30)
    assert pasted.stdout.startswith("{'logits': array([[")

    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
    assert not re.search('Traceback|"exception"', log.read_text())
    assert not listening(ports[0])


def test_ctrl_c_in_a_terminal_drains_once(demo, digits_repository):
    ours, terminal = pty.openpty()
    process, log = demo(digits_repository, stdin=terminal, start_new_session=True, preexec_fn=become_foreground)
    os.close(terminal)
    wait_for(log, "serving until Ctrl-C", process)
    os.write(ours, b"\x03")
    assert process.wait(40) == 0
    assert log.read_text().count("draining") == 1
    os.close(ours)


def test_ctrl_c_lets_make_end_well(demo, digits_repository, tmp_path):
    makefile = tmp_path / "Makefile"
    makefile.write_text("run:\n\t@exec $(COMMAND)\n")
    script = tmp_path / "through-make"
    script.write_text(f'#!/bin/sh\nexec make -s -f {makefile} COMMAND="$*"\n')
    script.chmod(0o755)
    ours, terminal = pty.openpty()
    process, log = demo(
        digits_repository, leader=[str(script)], stdin=terminal, start_new_session=True, preexec_fn=become_foreground
    )
    os.close(terminal)
    wait_for(log, "serving until Ctrl-C", process)
    os.write(ours, b"\x03")
    assert process.wait(40) == 0, log.read_text()
    os.close(ours)


def become_foreground():
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_port_in_use_is_one_line(demo, digits_repository, ports):
    with socket.create_server(("127.0.0.1", ports[0])):
        process, log = demo(digits_repository)
        assert process.wait(60) == 1
    assert log.read_text().count("\n") == 1
    assert f"port {ports[0]}" in log.read_text()


def test_a_model_that_is_not_there_is_one_line(demo, tmp_path, ports):
    (tmp_path / "empty").mkdir()
    process, log = demo(tmp_path / "empty")
    assert process.wait(60) == 1
    assert re.fullmatch(r"normserve: NOT_FOUND: .*digits.*\n", log.read_text())
    assert not listening(ports[0])


def test_a_model_that_does_not_load_is_one_line_with_its_reason(demo, tmp_path):
    folder = tmp_path / "broken" / "digits" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"no model")
    process, log = demo(tmp_path / "broken")
    assert process.wait(60) == 1
    assert re.fullmatch(r"normserve: UNAVAILABLE: digits: .+\n", log.read_text())


def test_it_can_be_told_to_end_while_it_starts(demo, digits_repository, ports):
    process, log = demo(digits_repository)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    process.wait(40)
    assert not re.search('Traceback|"exception"', log.read_text())
    assert not listening(ports[0])
