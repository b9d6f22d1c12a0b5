"""Ten thousand open channels, and more than a process may have files for: nobody who is served notices."""

import contextlib
import re
import resource
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import raw_http2
from background_load import background_load, request
from normserve import Client
from normserve.testing import RunningServer, running_server

CHANNELS = 10_000
ELSEWHERE = "127.0.0.2"  # each channel takes a port, which other tests find free on 127.0.0.1 and want to listen on
MIB = 2**20


@pytest.fixture(scope="module")
def server(digits_repository: Path, cache_dir: Path) -> Iterator[RunningServer]:
    flags = ("--cache-dir", str(cache_dir), "--max-queue-size", str(2 * CHANNELS), "--keepalive-seconds", "600")
    with running_server(digits_repository, arguments=flags) as server:
        yield server


@contextlib.contextmanager
def open_files(wanted: int) -> Iterator[None]:
    """Lets this process have so many files open; skips where the system does not give them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{wanted} open files are needed, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def channels(server: RunningServer, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(raw_http2.connect(server.grpc_address, ELSEWHERE)))
            opened[-1].sendall(raw_http2.opening())
        yield opened


def resident_bytes(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the server's memory is read from /proc")
def test_ten_thousand_channels_stay_open_and_all_call_at_once(server: RunningServer) -> None:
    before = resident_bytes(server)
    call = raw_http2.call(request(0).SerializeToString(), 1)
    with open_files(CHANNELS + 1000), background_load(server.grpc_address) as load, channels(server, CHANNELS) as opened:
        for channel in opened:
            assert raw_http2.read_frame(channel).kind == raw_http2.SETTINGS
        load.goes_on()
        assert resident_bytes(server) - before < 400 * MIB  # 40 KiB each, at most
        for channel in opened:
            channel.sendall(call)
        assert Counter(raw_http2.grpc_status(channel) for channel in opened) == {0: CHANNELS}
    assert server.process.poll() is None


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process's limits can be set on Linux only")
def test_more_channels_than_files_wait_and_those_that_are_open_are_served(server: RunningServer) -> None:
    with background_load(server.grpc_address) as load:
        used = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 20, hard))
        try:
            with channels(server, 60) as opened:
                assert raw_http2.read_frame(opened[0]).kind == raw_http2.SETTINGS
                opened[-1].settimeout(0.2)
                with pytest.raises(TimeoutError):
                    raw_http2.read_frame(opened[-1])
                load.goes_on()
            with Client(server.grpc_address) as client:
                assert client.is_live(timeout=20)
        finally:
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert not re.search('Traceback|"exception"', server.log)
