"""What the service gives: a network's rate under load, its latency alone, and the times of batch sizes that are new to it."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from normserve import Client
from normserve.testing import running_server
from normserve_server.accelerators.tuning import Tuning

from gpu_tools import load
from gpu_tools.load import Load
from gpu_tools.networks import Network

INFER = "/inference.GRPCInferenceService/ModelInfer"


def flags(tuning: Tuning) -> list[str]:
    """The server's flags for a tuning; several batches under way at a time."""
    chosen = {
        "--prefer-nhwc": tuning.prefer_nhwc,
        "--cuda-graphs": tuning.cuda_graphs,
        "--tf32": tuning.tf32,
        "--double-buffering": True,
    }
    return [flag for flag, wanted in chosen.items() if wanted]


@contextmanager
def server(repository: Path, device: str, arguments: Sequence[str]) -> Iterator[str]:
    """Our server, ready; gives its gRPC address. What it serves has been folded, and is served as it is."""
    fixed = ("--no-fold", "--log-level", "warning", "--cache-dir", str(repository.parent / "cache"))
    with running_server(repository, device=device, arguments=[*fixed, *arguments], timeout_s=200) as running:
        yield running.grpc_address


def rate(address: str, network: Network, folder: Path, *, processes: int, callers: int, seconds: float) -> float:
    """Samples a second under load, one image a request.

    Raises:
        LoadError: a call was refused.
    """
    body = folder / "request"
    body.write_bytes(network.request(1))
    return load.run(Load(address, INFER, body, processes, callers), seconds).per_second


def latency(address: str, network: Network, folder: Path, seconds: float) -> float:
    """The median seconds of one caller's requests of one image."""
    body = folder / "request"
    body.write_bytes(network.request(1))
    return load.run(Load(address, INFER, body, 1, 1), seconds).p50


def new_sizes(address: str, network: Network, most: int) -> tuple[float, float]:
    """Requests of every size from 1 to `most`, in no order: the slowest one's seconds at first, the median's when warm."""
    sizes = np.random.default_rng(0).permutation(np.arange(1, most + 1)).tolist()
    with Client(address) as client:
        client.is_ready(network.name)  # which connects
        rounds = [[_seconds(client, network, size) for size in sizes] for _ in range(3)]
    return max(rounds[0]), statistics.median(rounds[-1])


def _seconds(client: Client, network: Network, size: int) -> float:
    images = network.images(size)
    began = time.perf_counter()
    client.infer(network.name, {network.input_name: images}, timeout=120)
    return time.perf_counter() - began
