"""The servers beside ours, with as little in them as can be: each is this file, run as a program.

other_servers.py echo ADDRESS SIZE     # answers every call with SIZE bytes
other_servers.py bare ADDRESS FILE     # runs an ONNX file on the last bytes of the message, in the handler; checks nothing
other_servers.py collector ADDRESS     # takes OpenTelemetry's spans, and throws them away
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import uvloop

PATH = "/bench.Other/Call"
COLLECTOR_PATH = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"  # an answer of no bytes says that all is well
START_SECONDS = 30
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Process:
    """A server that answers.

    Attributes:
        address: "host:port".
        pid: of its process.
    """

    address: str
    pid: int


@contextmanager
def other_server(kind: str, address: str, *arguments: object) -> Iterator[Process]:
    """Runs "echo", "bare" or "collector" as a process of its own, for the length of a `with`."""
    process = subprocess.Popen([sys.executable, __file__, kind, address, *map(str, arguments)])
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=START_SECONDS)
        yield Process(address, process.pid)
    finally:
        process.terminate()
        process.wait()


def echo(size: int) -> Callable[[bytes], bytes]:
    answer = bytes(size)
    return lambda _request: answer


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session with nothing set but its threads; 0 for one per core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def bare(path: Path, threads: int) -> Callable[[bytes], bytes]:
    session = open_session(path, threads)
    name, (_, *rest) = session.get_inputs()[0].name, session.get_inputs()[0].shape
    size = int(np.prod(rest)) * 4

    def run(request: bytes) -> bytes:
        output: np.ndarray = session.run(None, {name: np.frombuffer(request[-size:], np.float32).reshape(1, *rest)})[0]
        return output.tobytes()

    return run


async def serve(address: str, path: str, respond: Callable[[bytes], bytes]) -> None:
    async def handle(request: bytes, _context: object) -> bytes:
        return respond(request)

    server = grpc.aio.server(options=UNLIMITED)
    service, _, method = path[1:].partition("/")
    handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    kind, address, *arguments = sys.argv[1:]
    if kind == "bare":
        uvloop.run(serve(address, PATH, bare(Path(arguments[0]), int(arguments[1]))))
    elif kind == "echo":
        uvloop.run(serve(address, PATH, echo(int(arguments[0]))))
    else:
        uvloop.run(serve(address, COLLECTOR_PATH, echo(0)))


if __name__ == "__main__":
    main()
