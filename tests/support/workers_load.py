"""A server with several workers, and callers who go on until they are told to stop and keep what came of each call."""

import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from normserve.testing import RunningServer
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from prometheus_client.mmap_dict import MmapedDict

CLIENTS = 8
CHANNEL = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


@dataclass
class Tally:
    """What one client sent, and what came of it."""

    sent: int = 0
    codes: list[grpc.StatusCode] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return self.codes.count(grpc.StatusCode.OK)

    def check_drained(self) -> None:
        """All were answered until the door was shut; whoever came then was told so, before the connection went."""
        assert len(self.codes) == self.sent
        assert self.codes[: self.answered] == [grpc.StatusCode.OK] * self.answered, self.texts
        assert self.codes[self.answered] == grpc.StatusCode.UNAVAILABLE
        assert self.texts[0] == "the server is draining"


def infer(stub: GRPCInferenceServiceStub, *, wait: bool = False) -> pb.ModelInferResponse:
    message = pb.ModelInferRequest(model_name="digits")
    message.inputs.add(name="image", datatype="FP32", shape=[2, 1, 8, 8])
    message.raw_input_contents.append(np.zeros(2 * 64, "<f4").tobytes())
    return stub.ModelInfer(message, timeout=20, wait_for_ready=wait)


def hammer(address: str, tally: Tally, stop: threading.Event, wait: bool) -> None:
    with grpc.insecure_channel(address, CHANNEL) as channel:
        stub = GRPCInferenceServiceStub(channel)
        while not stop.is_set():
            tally.sent += 1
            try:
                infer(stub, wait=wait)
                tally.codes.append(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                tally.codes.append(error.code())
                tally.texts.append(error.details())
                time.sleep(0.01)


class Load:
    """Clients, each with a connection of its own, that call until they are told to stop.

    Args:
        address: of the server.
        wait: whether a call waits for a connection while there is none.
    """

    def __init__(self, address: str, *, wait: bool = False) -> None:
        self.tallies = [Tally() for _ in range(CLIENTS)]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=hammer, args=(address, tally, self._stop, wait)) for tally in self.tallies]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        until(lambda: min(tally.answered for tally in self.tallies) > 5)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def get(server: RunningServer, path: str) -> str:
    with urllib.request.urlopen(f"http://{server.http_address}{path}", timeout=10) as response:
        return response.read().decode()


def value(server: RunningServer, name: str) -> float:
    lines = get(server, "/metrics").splitlines()
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(f"{name} ")), 0.0)


OK_COUNT = 'normserve_requests_total{code="OK",method="ModelInfer",model="digits",version="1"}'


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def folder_of(worker: int) -> Path:
    variables = dict(line.split("=", 1) for line in Path(f"/proc/{worker}/environ").read_text().split("\0") if "=" in line)
    return Path(variables["PROMETHEUS_MULTIPROC_DIR"]).parent


def ok_by_worker(folder: Path) -> list[float]:
    counts = []
    for path in sorted((folder / "metrics").glob("counter_*.db")):
        entries = MmapedDict.read_all_values_from_file(str(path))
        counts.append(sum(value for key, value, *_ in entries if '"normserve_requests_total"' in key and '"OK"' in key))
    return counts
