"""Clients that are broken or mean no good, beside others whose calls are all answered as if nobody else were there."""

import contextlib
import random
import re
import shutil
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import raw_http2
from background_load import background_load
from normserve.testing import RunningServer, running_server
from normserve_proto import open_inference_pb2 as pb
from onnx import TensorProto, helper

MIB = 2**20
LIMIT = 64 * MIB
KEEPALIVE = 1.0  # seconds


@pytest.fixture(scope="module")
def repository(digits_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, and `wide`, which answers 4 MiB to four bytes."""
    repository = tmp_path_factory.mktemp("chaos") / "repository"
    shutil.copytree(digits_repository, repository)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", MIB])
    width = helper.make_tensor("width", TensorProto.INT64, [2], [1, MIB])
    graph = helper.make_graph([helper.make_node("Expand", ["x", "width"], ["y"])], "wide", [x], [y], [width])
    (repository / "wide/1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, repository / "wide/1/model.onnx")
    return repository


@pytest.fixture(scope="module")
def server(repository: Path, cache_dir: Path) -> Iterator[RunningServer]:
    flags = ("--cache-dir", str(cache_dir), "--max-admitted-bytes", str(LIMIT), "--keepalive-seconds", str(KEEPALIVE))
    with running_server(repository, arguments=flags) as server:
        yield server


def wide_request() -> bytes:
    message = pb.ModelInferRequest(model_name="wide", raw_input_contents=[bytes(4)])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    return message.SerializeToString()


def metric(server: RunningServer, name: str) -> float:
    with urllib.request.urlopen(f"http://{server.http_address}/metrics") as response:
        found = re.search(rf"^{name} (\S+)$", response.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0


def resident_bytes(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


def comes_true(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def comes_to_rest(server: RunningServer) -> None:
    comes_true(lambda: metric(server, "normserve_requests_in_flight") == metric(server, "normserve_admitted_bytes") == 0)


@contextlib.contextmanager
def connections(server: RunningServer, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(raw_http2.connect(server.grpc_address)) for _ in range(count)]


def ended(server: RunningServer) -> float:
    """How many calls were run or refused so far."""
    with urllib.request.urlopen(f"http://{server.http_address}/metrics") as response:
        lines = response.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("normserve_requests_total{") and "ModelInfer" in line]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


def frames(connection: socket.socket) -> Iterator[raw_http2.Frame]:
    """What the server sends, until it closes the connection."""
    while (frame := raw_http2.read_frame(connection)) is not None:
        yield frame


def answer_pings(connection: socket.socket, seen: list[tuple[int, int]]) -> None:
    """Takes whatever comes; kinds and flags go to `seen`."""
    with contextlib.suppress(OSError):  # it is closed
        for frame in frames(connection):
            seen.append((frame.kind, frame.flags))
            if seen[-1] == (raw_http2.PING, 0):
                connection.sendall(raw_http2.frame(raw_http2.PING, frame.payload, flags=raw_http2.ACK))


def test_a_caller_that_asks_for_more_than_it_takes_costs_a_bounded_amount(server: RunningServer) -> None:
    asked, before = wide_request(), resident_bytes(server)
    with connections(server, 1) as [mute]:
        mute.sendall(raw_http2.opening(window=0))
        threading.Thread(target=answer_pings, args=(mute, [])).start()
        for number in range(50):
            so_far = ended(server)
            mute.sendall(raw_http2.call(asked, 2 * number + 1))
            comes_true(lambda so_far=so_far: ended(server) > so_far)
        assert LIMIT <= metric(server, "normserve_admitted_bytes") < LIMIT + 5 * MIB
        # An answer on its way is there twice, as a message and in gRPC. All of them were 400 MiB.
        assert resident_bytes(server) - before < 4 * LIMIT
        mute.shutdown(socket.SHUT_RDWR)
    comes_to_rest(server)
    with background_load(server.grpc_address):
        pass


@pytest.mark.parametrize("window", [0, 2**31 - 1], ids=["takes nothing", "lets its socket fill"])
def test_a_caller_whose_process_was_stopped_is_taken_for_gone(server: RunningServer, window: int) -> None:
    with background_load(server.grpc_address), connections(server, 1) as [stopped]:
        stopped.sendall(raw_http2.opening(window) + b"".join(raw_http2.call(wide_request(), stream) for stream in (1, 3, 5)))
        comes_true(lambda: metric(server, "normserve_admitted_bytes") > 4 * MIB)
        comes_true(lambda: metric(server, "normserve_admitted_bytes") < 4 * MIB)
    comes_to_rest(server)


def test_a_caller_that_does_not_read_holds_up_nobody(server: RunningServer) -> None:
    with background_load(server.grpc_address) as load, connections(server, 1) as [mute]:
        mute.sendall(raw_http2.opening(0) + b"".join(raw_http2.call(wide_request(), stream) for stream in (1, 3, 5, 7)))
        comes_true(lambda: metric(server, "normserve_admitted_bytes") > 12 * MIB)
        load.goes_on()
    comes_to_rest(server)


def infer_headers(stream: int = 1) -> bytes:
    return raw_http2.opening() + raw_http2.headers(raw_http2.INFER, stream)


@pytest.mark.parametrize(
    "sent",
    [
        raw_http2.PREFACE,
        infer_headers(),
        infer_headers() + raw_http2.data(wide_request(), 1),
        infer_headers() + raw_http2.frame(raw_http2.DATA, b"\0\x7f\xff\xff\xff, to come", stream=1),
    ],
    ids=["the preface", "headers", "a request", "2 GiB"],
)
def test_who_sends_a_byte_at_a_time_and_never_the_last_one_holds_up_nobody(server: RunningServer, sent: bytes) -> None:
    before = resident_bytes(server)
    with background_load(server.grpc_address) as load, connections(server, 50) as slow:
        for byte in sent[:-1]:
            for connection in slow:
                connection.send(bytes([byte]))
        load.goes_on()
        assert resident_bytes(server) - before < 50 * MIB
    comes_to_rest(server)


def test_a_silent_peer_is_taken_for_gone_and_one_that_asks_often_is_not(server: RunningServer) -> None:
    seen: list[tuple[int, int]] = []
    with connections(server, 2) as (silent, asking):
        silent.sendall(raw_http2.opening())
        asking.sendall(raw_http2.opening())
        threading.Thread(target=answer_pings, args=(asking, seen)).start()
        for _ in range(4):  # gRPC's own limit is two in five minutes
            time.sleep(1.05)
            asking.sendall(raw_http2.frame(raw_http2.PING, b"are you?"))
        assert [frame.kind for frame in frames(silent)][-2:] == [raw_http2.PING, raw_http2.GOAWAY]
        comes_true(lambda: seen.count((raw_http2.PING, raw_http2.ACK)) == 4)
        assert raw_http2.GOAWAY not in {kind for kind, _ in seen}
        asking.shutdown(socket.SHUT_RDWR)


def test_connections_that_break_while_they_are_served_cost_the_others_nothing(server: RunningServer) -> None:
    """By a reset in the middle of everything: requests in part, waiting, running, and answers on their way."""
    whole = raw_http2.opening() + b"".join(raw_http2.call(wide_request(), stream) for stream in (1, 3, 5))
    with background_load(server.grpc_address) as load:
        for cut in range(60, len(whole), 60):
            with connections(server, 1) as [broken]:
                broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing is a reset
                broken.sendall(whole[:cut])
        load.goes_on()
    comes_to_rest(server)


def test_calls_that_are_taken_back_at_once_cost_the_others_nothing(server: RunningServer) -> None:
    """More of them than gRPC lets wait by default, before it cancels calls of others."""
    cancel = struct.pack(">I", 8)
    calls = (
        raw_http2.headers(raw_http2.INFER, stream) + raw_http2.frame(raw_http2.RST_STREAM, cancel, stream=stream)
        for stream in range(1, 40_000, 2)
    )
    with background_load(server.grpc_address) as load, connections(server, 1) as [fickle]:
        fickle.sendall(raw_http2.opening() + b"".join(calls))
        load.goes_on()
    comes_to_rest(server)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n",
        bytes.fromhex("16030100f1010000ed0303") + bytes(range(200)),
        random.Random(0).randbytes(100_000),
        raw_http2.opening() + random.Random(1).randbytes(100_000),
        raw_http2.opening() + raw_http2.frame(raw_http2.HEADERS, b"\xff" * 30, flags=raw_http2.END_HEADERS, stream=1),
        infer_headers()[:-5],
    ],
    ids=["HTTP/1.1", "TLS", "noise", "noise in frames", "no headers", "half a frame, and the end"],
)
def test_garbage_closes_its_own_connection_only(server: RunningServer, garbage: bytes) -> None:
    with background_load(server.grpc_address) as load:
        for _ in range(5):
            # One that the server has ended already cannot be shut down: that is no ConnectionError, only an OSError.
            with connections(server, 1) as [babbler], contextlib.suppress(OSError):
                babbler.sendall(garbage)
                babbler.shutdown(socket.SHUT_WR)
                assert next(frames(babbler)).kind == raw_http2.SETTINGS
        load.goes_on()
    assert server.process.poll() is None
    assert "Traceback" not in server.log
