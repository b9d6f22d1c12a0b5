"""Where a request to a server spends its time: what the server counted, set against the caller's clock."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from normserve_proto.tensors import DTYPES, Array

from normserve.cli.console import InputError
from normserve.cli.profile_counts import Counted, read
from normserve.cli.profile_stages import COPY_IN, COPY_OUT, HOST, KERNELS, OUTSIDE, WAITING, Profile, Stage
from normserve.client import Client
from normserve.errors import UnavailableError
from normserve.results import TensorMetadata

WARM_UP_REQUESTS = 3
COUNTING_SECONDS = 10.0  # longest wait for the server to have counted what it has answered


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be measured.

    Attributes:
        model: its name.
        version: an integer in decimal; empty for the server's choice.
        inputs: those that are given, by name.
        samples: extent of a dynamic first dimension of the others, > 0.
        requests: how many, > 0.
        timeout: seconds that one may take; None for no limit.
    """

    model: str
    version: str
    inputs: Mapping[str, Array]
    samples: int
    requests: int
    timeout: float | None


def measure(client: Client, asked: Asked, http_base: str) -> Profile:
    """Sends the requests, one after the other, and tells where their time went.

    Args:
        client: of the server.
        asked: what is to be measured.
        http_base: the server's HTTP address, `http://host:port`, whose metrics tell decoding from encoding.

    Raises:
        NormserveError: the server refused, or does not count what it answers.
    """
    asked = _complete(client, asked)
    version = asked.version or _chosen(client, asked)
    reading = partial(read, client, asked.model, version, http_base)
    first = reading()
    _send(client, asked, WARM_UP_REQUESTS)
    before = _settled(reading, first.requests + WARM_UP_REQUESTS)
    seconds = _send(client, asked, asked.requests) / asked.requests
    counted = _settled(reading, before.requests + asked.requests).since(before)
    samples = next((len(array) for array in asked.inputs.values() if array.ndim), 1)
    return Profile(
        f"{asked.model}/{version}",
        asked.requests,
        samples,
        stages(counted.each(), seconds),
        notes=notes(counted, asked.requests, http_base),
    )


def _complete(client: Client, asked: Asked) -> Asked:
    """Gives zeros (empty strings for BYTES) for the inputs that are not given.

    Raises:
        InputError: an extent beyond the first is dynamic, or the model has no input of a name that was given.
    """
    tensors = client.metadata(asked.model, asked.version, timeout=asked.timeout).inputs
    names = [tensor.name for tensor in tensors]
    if unknown := sorted(set(asked.inputs) - set(names)):
        raise InputError(f"--input: {asked.model} has no input {', '.join(unknown)}; it has {', '.join(names)}")
    made = {tensor.name: _zeros(tensor, asked.samples) for tensor in tensors if tensor.name not in asked.inputs}
    return replace(asked, inputs={**asked.inputs, **made})


def _zeros(tensor: TensorMetadata, samples: int) -> Array:
    shape = (samples, *tensor.shape[1:]) if tensor.shape[:1] == (-1,) else tensor.shape
    if -1 in shape:
        raise InputError(f"input '{tensor.name}' has shape {list(tensor.shape)}: give it with --input {tensor.name}=FILE.npy")
    return np.full(shape, b"", np.object_) if tensor.datatype == "BYTES" else np.zeros(shape, DTYPES[tensor.datatype])


def _send(client: Client, asked: Asked, requests: int) -> float:
    """Sends requests, one after the other; returns the seconds that they took."""
    began = time.perf_counter()
    for _ in range(requests):
        client.infer(asked.model, asked.inputs, version=asked.version, timeout=asked.timeout)
    return time.perf_counter() - began


def _chosen(client: Client, asked: Asked) -> str:
    """Finds out which version the server chooses: the one that counts a request."""
    before = {one.version: one.success.count for one in client.statistics(asked.model)}
    _send(client, asked, 1)
    deadline = time.monotonic() + COUNTING_SECONDS
    while time.monotonic() < deadline:
        after = {one.version: one.success.count for one in client.statistics(asked.model)}
        grown = {version: count - before.get(version, 0) for version, count in after.items()}
        if any(grown.values()):
            return max(grown, key=lambda version: grown[version])
    raise UnavailableError(f"{asked.model}: the server does not count what it answers")


def _settled(reading: Callable[[], Counted], requests: int) -> Counted:
    """Reads until so many requests are counted: a call is counted a little after its answer."""
    deadline = time.monotonic() + COUNTING_SECONDS
    while (counted := reading()).requests < requests:
        if time.monotonic() > deadline:
            raise UnavailableError(f"the server counted {counted.requests} of {requests} requests that it answered")
    return counted


def stages(each: Counted, seconds: float) -> list[Stage]:
    """One request's stages; what nobody measured is what is left."""
    runs = each.copy_in + each.kernels + each.copy_out
    outside = Stage("caller, gRPC, network", OUTSIDE, max(seconds - each.total, 0.0))
    run = [
        Stage("put batch together", COPY_IN, each.copy_in),
        Stage("run the model", KERNELS, each.kernels),
        Stage("split the outputs", COPY_OUT, each.copy_out),
    ]
    queue = Stage("wait in the queue", WAITING, each.queue)
    if not each.phases.keys() >= {"decode", "compute", "encode"}:
        rest = max(each.total - each.queue - runs, 0.0)
        return [outside, queue, *run, Stage("decode, hand over, encode", HOST, rest)]
    decode, encode = each.phases["decode"], each.phases["encode"]
    rest = max(each.total - each.queue - runs - decode - encode, 0.0)
    return [
        outside,
        Stage("decode and check", HOST, decode),
        queue,
        *run,
        Stage("hand over, and back", HOST, rest),
        Stage("encode", HOST, encode),
    ]


def notes(counted: Counted, requests: int, http_base: str) -> list[str]:
    """What has to be known to read the figures."""
    told = []
    if counted.requests > requests:
        told.append(f"{counted.requests - requests} other requests were counted, too: the server's times are means of all")
    if not counted.phases:
        told.append(f"decoding and encoding are not told apart: {http_base}/metrics has no phases of this version")
    return told
