"""Load from h2load, which costs a tenth of what a gRPC client in Python does, so that the server is what is measured.

A caller is a stream of an HTTP/2 connection that always has one call under way. By default all callers share one connection,
for that is what a client program has: gRPC gives all channels of a process that go to one address the same connection. With
more, callers are spread over them, as those of several client programs are. Whatever is chosen holds for every subject.
"""

import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving_tools.errors import LoadError

PROGRAM = "h2load"
FRAME_HEAD = struct.Struct(">BI")  # not compressed, length
HEADERS = ("content-type: application/grpc", "te: trailers")
GRACE_SECONDS = 30


@dataclass(frozen=True)
class Load:
    """Calls that are all the same.

    Attributes:
        address: "host:port".
        path: "/package.Service/Method".
        body: file with one gRPC message, as `write_body` leaves it.
        answer_bytes: size of the answer's message; every answer is held to it.
        callers: calls under way at any moment.
        connections: over which the callers are spread; a divisor of `callers`.
    """

    address: str
    path: str
    body: Path
    answer_bytes: int
    callers: int
    connections: int = 1


@dataclass(frozen=True)
class Answers:
    """The answered calls, in the order in which they ended.

    Attributes:
        starts: seconds since the epoch; [calls], float64.
        latencies: seconds from sending a call to its last byte; likewise.
    """

    starts: NDArray[np.float64]
    latencies: NDArray[np.float64]


def write_body(message: bytes, path: Path) -> Path:
    """Writes a message as gRPC sends it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FRAME_HEAD.pack(0, len(message)) + message)
    return path


def run(load: Load, *, seconds: float | None = None, calls: int = 0, calls_per_second: float = 0) -> Answers:
    """Puts load on a server.

    Args:
        load: the calls.
        seconds: how long; None to make `calls` of them. At the end of a time, the calls under way are cut off.
        calls: how many, where no time is given.
        calls_per_second: of all callers together; 0 for as many as they can.

    Returns:
        One entry a call that was answered.

    Raises:
        LoadError: h2load is missing, or a call failed, or an answer was not of the expected size.
    """
    if shutil.which(PROGRAM) is None:
        raise LoadError(f"there is no {PROGRAM}; Debian's package nghttp2-client has it")
    if load.callers % load.connections:
        raise LoadError(f"{load.callers} callers cannot be spread evenly over {load.connections} connections")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "calls.tsv"
        command = [PROGRAM, *_flags(load, log), *_length(seconds, calls), *_pace(load, calls_per_second)]
        limit = (seconds if seconds is not None else calls / (calls_per_second or 1)) + GRACE_SECONDS
        output = _output([*command, f"http://{load.address}{load.path}"], limit)
        _check(load, output)
        answers = _read(log)
    if calls and len(answers.starts) != calls:
        raise LoadError(f"{load.path} at {load.address}: of {calls} calls {len(answers.starts)} were answered")
    return answers


def _flags(load: Load, log: Path) -> list[str]:
    streams = load.callers // load.connections
    flags = ["-c", str(load.connections), "-m", str(streams), "-d", str(load.body), "--log-file", str(log)]
    return flags + [flag for header in HEADERS for flag in ("-H", header)]


def _length(seconds: float | None, calls: int) -> list[str]:
    return ["-n", str(calls)] if seconds is None else ["-D", f"{max(round(seconds * 1000), 1)}ms"]


def _pace(load: Load, calls_per_second: float) -> list[str]:
    each = round(calls_per_second / load.connections)
    return ["--rps", str(max(each, 1))] if calls_per_second else []


def _output(command: list[str], limit: float) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise LoadError(f"{PROGRAM} had not ended after {limit:.0f} s") from None
    if done.returncode:
        raise LoadError(f"{PROGRAM} ended with code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _check(load: Load, output: str) -> None:
    """A call that gRPC refuses has HTTP status 200 and no message, so the bytes of all answers together tell."""
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (succeeded|failed|errored|timeout)", output)}
    data = re.search(r"\((\d+)\) data", output)
    if len(counts) < 4 or data is None:
        raise LoadError(f"cannot read what {PROGRAM} printed: {output}")
    if not counts["succeeded"] or counts["failed"] or counts["errored"] or counts["timeout"]:
        raise LoadError(f"{load.path} at {load.address}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    size = load.answer_bytes + FRAME_HEAD.size
    surplus = int(data.group(1)) - counts["succeeded"] * size
    if not 0 <= surplus <= load.callers * size:  # part of an answer may have come in when the time was over
        raise LoadError(
            f"{load.path} at {load.address}: {counts['succeeded']} answers of {size} bytes each were wanted, "
            f"{data.group(1)} bytes came; some calls were refused or answered otherwise"
        )


def _read(log: Path) -> Answers:
    microseconds = np.loadtxt(log, dtype=np.int64, delimiter="\t", ndmin=2)
    return Answers(microseconds[:, 0] / 1e6, microseconds[:, 2] / 1e6)
