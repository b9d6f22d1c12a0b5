"""Load from several processes, in Python: it costs more than h2load's, but it is there wherever grpcio is.

As a program, one of these processes:  load.py ADDRESS METHOD BODY CALLERS SECONDS, which says `ready` and waits for a line.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 60


class LoadError(Exception):
    """The load did not run as it should have."""


@dataclass(frozen=True)
class Load:
    """Calls to make.

    Attributes:
        address: "host:port".
        method: its path.
        body: file of the request's message.
        processes: each with a connection of its own, > 0.
        callers: in each of them, that always have a call under way, > 0.
    """

    address: str
    method: str
    body: Path
    processes: int
    callers: int


@dataclass(frozen=True)
class Answers:
    """What came of it.

    Attributes:
        per_second: answers a second.
        p50: median latency of a call in seconds; `p99` likewise.
    """

    per_second: float
    p50: float
    p99: float


def run(load: Load, seconds: float) -> Answers:
    """Makes the calls for so long, all processes at a time.

    Raises:
        LoadError: a call was refused, or none answered in time; the text says which.
    """
    arguments = [load.address, load.method, str(load.body), str(load.callers), str(seconds)]
    command = [sys.executable, __file__, *arguments]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(load.processes)]
    try:
        for process in processes:
            assert process.stdout
            process.stdout.readline()  # `ready`, or nothing where it has ended
        for process in processes:
            _go(process)
        told = [process.communicate(timeout=seconds + START_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, problem) in zip(processes, told, strict=True):
        if process.returncode:
            raise LoadError(f"the load ended with {process.returncode}: {problem.strip()[-500:]}")
    return _joined([json.loads(text) for text, _ in told], seconds)


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):  # it has ended, and its exit code will be looked at
        process.stdin.write("go\n")
        process.stdin.flush()


def _joined(told: list[list[float]], seconds: float) -> Answers:
    latencies = sorted(latency for each in told for latency in each)
    if not latencies:
        raise LoadError(f"no call was answered within {seconds:g} s")
    return Answers(len(latencies) / seconds, latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)])


async def _call(address: str, method: str, message: bytes, callers: int, seconds: float) -> list[float]:
    """The latencies of the calls that were answered in time."""
    import grpc

    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    latencies: list[float] = []

    async def caller(until: float) -> None:
        while (began := time.perf_counter()) < until:
            await call(message, timeout=START_SECONDS)
            ended = time.perf_counter()
            if ended <= until:
                latencies.append(ended - began)

    async with grpc.aio.insecure_channel(address, options=limits) as channel:
        call: Any = channel.unary_unary(method)
        await call(message, timeout=START_SECONDS)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        until = time.perf_counter() + seconds
        await asyncio.gather(*(caller(until) for _ in range(callers)))
    return latencies


def main() -> None:
    address, method, body, callers, seconds = sys.argv[1:]
    import uvloop

    print(json.dumps(uvloop.run(_call(address, method, Path(body).read_bytes(), int(callers), float(seconds)))))


if __name__ == "__main__":
    main()
