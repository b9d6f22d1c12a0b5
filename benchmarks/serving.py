"""What does serving a model cost, beside running it and beside moving its bytes?

Four things answer the same requests, alternating in one run: onnxruntime in the process that asks (the ceiling of the model),
a bare grpc.aio echo that takes and gives the same number of bytes (the ceiling of the transport), a bare grpc.aio handler that
runs the session on the last bytes of the message and checks nothing (the ceiling of both together), and the server. The load
comes from one asyncio client, the same for all three. Times on a shared machine mean little; the ratios in one run do.

    python benchmarks/serving.py                          # all models, at 1, 4 and 16 callers
    python benchmarks/serving.py digits --seconds 1       # one model, shorter
    python benchmarks/serving.py --json results.json      # keep the figures
"""

import argparse
import asyncio
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import uvloop
from normserve.testing import free_port, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors, wire
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).parent
OUT = HERE / "out"
CONCURRENCIES = (1, 4, 16)
SHAPES = {"digits": (1, 1, 8, 8), "resnet50": (1, 3, 224, 224), "identity": (1, 262_144)}
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SUBJECTS = ("in-process", "echo", "bare", "server")


@dataclass(frozen=True)
class Figure:
    """What one subject did in one cell: the median over the rounds.

    Attributes:
        rate: answers a second.
        p50_ms: median latency in milliseconds; `p99_ms` likewise.
    """

    rate: float
    p50_ms: float
    p99_ms: float


Call = Callable[[], Awaitable[object]]


def prepare(model: str, repository: Path) -> Path:
    """Builds a model's folder in the repository; returns the folded file that the server will run."""
    source = repository / model / "1" / "model.onnx"
    if model == "identity":
        save_identity(source)
    else:
        run_module("normserve_models.zoo.build", "--repository", str(repository), model)
    folded = OUT / "folded" / model
    shutil.rmtree(folded, ignore_errors=True)  # it may be of an older fold
    run_module("normserve_models.prepare", str(source), str(folded))
    return folded / "model.onnx"


def run_module(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def save_identity(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SHAPES["identity"][1]]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def request_bytes(model: str, name: str, array: np.ndarray) -> bytes:
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name=name, datatype="FP32", shape=array.shape)
    return wire.join(message.SerializeToString(), wire.RAW_INPUT_CONTENTS, [tensors.encode(array)])


@contextmanager
def other_server(kind: str, argument: str) -> Iterator[str]:
    """Runs this file as a server: `--echo` SIZE answers with as many bytes, `--bare` FILE runs an ONNX file, no more."""
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen([sys.executable, __file__, kind, address, argument])
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        yield address
    finally:
        process.terminate()
        process.wait()


def echo(size: int) -> Callable[[bytes], bytes]:
    answer = bytes(size)
    return lambda _request: answer


def bare(path: Path) -> Callable[[bytes], bytes]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name, shape = session.get_inputs()[0].name, SHAPES[path.parent.name]
    size = int(np.prod(shape)) * 4

    def run(request: bytes) -> bytes:
        output: np.ndarray = session.run(None, {name: np.frombuffer(request[-size:], np.float32).reshape(shape)})[0]
        return output.tobytes()

    return run


async def serve_other(address: str, respond: Callable[[bytes], bytes]) -> None:
    async def handle(request: bytes, _context: object) -> bytes:
        return respond(request)

    server = grpc.aio.server(options=UNLIMITED)
    handlers: dict[str, Any] = {"Call": grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Other", handlers),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


async def load(call: Call, concurrency: int, seconds: float) -> list[float]:
    """Keeps `concurrency` calls under way for a time; returns the latency of each, in seconds."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (started := time.perf_counter()) < end:
            await call()
            latencies.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return latencies


def load_in_process(run: Callable[[], object], concurrency: int, seconds: float) -> list[float]:
    """The same with threads, and without a network."""
    end = time.perf_counter() + seconds

    def caller() -> list[float]:
        latencies = []
        while (started := time.perf_counter()) < end:
            run()
            latencies.append(time.perf_counter() - started)
        return latencies

    with ThreadPoolExecutor(concurrency) as pool:
        return [latency for future in [pool.submit(caller) for _ in range(concurrency)] for latency in future.result()]


def figure(latencies: list[float], seconds: float) -> Figure:
    """`seconds` is what really passed: the last calls end after the turn does."""
    p50, p99 = np.percentile(latencies, [50, 99])
    return Figure(len(latencies) / seconds, float(p50) * 1e3, float(p99) * 1e3)


def median(figures: list[Figure]) -> Figure:
    return Figure(*(statistics.median(getattr(f, name) for f in figures) for name in ("rate", "p50_ms", "p99_ms")))


async def measure(
    session: onnxruntime.InferenceSession,
    array: np.ndarray,
    calls: dict[str, Call],
    *,
    arguments: argparse.Namespace,
    progress: Callable[[], None],
) -> dict[int, dict[str, Figure]]:
    """Measures every subject at every concurrency, in turns."""
    feed = {session.get_inputs()[0].name: array}
    figures: dict[int, dict[str, list[Figure]]] = {c: {s: [] for s in SUBJECTS} for c in CONCURRENCIES}
    for concurrency in CONCURRENCIES:
        for round_ in range(arguments.rounds + 1):
            for subject in SUBJECTS:
                started = time.perf_counter()
                if subject == "in-process":
                    latencies = load_in_process(partial(session.run, None, feed), concurrency, arguments.seconds)
                else:
                    latencies = await load(calls[subject], concurrency, arguments.seconds)
                if round_:  # the first one warms up
                    figures[concurrency][subject].append(figure(latencies, time.perf_counter() - started))
                progress()
    return {c: {s: median(fs) for s, fs in by_subject.items()} for c, by_subject in figures.items()}


async def benchmark(model: str, folded: Path, address: str, arguments: argparse.Namespace, progress: Callable[[], None]) -> Any:
    session = onnxruntime.InferenceSession(folded, providers=["CPUExecutionProvider"])
    array = np.random.default_rng(0).random(SHAPES[model], np.float32)
    data = request_bytes(model, session.get_inputs()[0].name, array)
    async with grpc.aio.insecure_channel(address, UNLIMITED) as channel:
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        size = len(await infer(data))
        with other_server("--echo", str(size)) as echo_address, other_server("--bare", str(folded)) as bare_address:
            async with (
                grpc.aio.insecure_channel(echo_address, UNLIMITED) as echo_channel,
                grpc.aio.insecure_channel(bare_address, UNLIMITED) as bare_channel,
            ):
                echo_call: Any = echo_channel.unary_unary("/bench.Other/Call")
                bare_call: Any = bare_channel.unary_unary("/bench.Other/Call")
                calls: dict[str, Call] = {
                    "echo": lambda: echo_call(data),
                    "bare": lambda: bare_call(data),
                    "server": lambda: infer(data),
                }
                return await measure(session, array, calls, arguments=arguments, progress=progress)


def overhead(cell: dict[str, Figure], subject: str = "server") -> float:
    """What serving adds to the median latency, in units of the echo's whole latency."""
    return (cell[subject].p50_ms - cell["in-process"].p50_ms) / cell["echo"].p50_ms


def table(model: str, cells: dict[int, dict[str, Figure]]) -> Table:
    out = Table("callers", *SUBJECTS, "of in-process", "of echo", "overhead", title=f"{model}: requests/s (p50, p99 ms)")
    for concurrency, cell in cells.items():
        texts = [f"{f.rate:,.0f} ({f.p50_ms:.2f}, {f.p99_ms:.2f})" for f in (cell[s] for s in SUBJECTS)]
        ratios = [cell["server"].rate / cell[s].rate for s in ("in-process", "echo")]
        out.add_row(str(concurrency), *texts, *(f"{ratio:.2f}" for ratio in ratios), f"{overhead(cell):.2f} echoes")
    return out


def summary(model: str, cells: dict[int, dict[str, Figure]]) -> str:
    best = max(cells[c]["server"].rate for c in cells) / max(cells[c]["in-process"].rate for c in cells)
    ours, least = overhead(cells[1]), overhead(cells[1], "bare")
    return (
        f"{model}: {best:.2f} of in-process at the best concurrency; "
        f"overhead at one caller {ours:.2f} echoes, a bare handler's {least:.2f}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(SHAPES)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each subject has its turn (default: 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a turn lasts (default: 2)")
    parser.add_argument("--server-flag", action="append", default=[], help="a further flag of the server; repeatable")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--echo", nargs=2, metavar=("ADDRESS", "SIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--bare", nargs=2, metavar=("ADDRESS", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(SHAPES)
    if unknown:
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    arguments.models = arguments.models or list(SHAPES)
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.echo:
        uvloop.run(serve_other(arguments.echo[0], echo(int(arguments.echo[1]))))
    elif arguments.bare:
        uvloop.run(serve_other(arguments.bare[0], bare(Path(arguments.bare[1]))))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    repository = OUT / "repository"
    folded = {model: prepare(model, repository) for model in arguments.models}
    console = Console()
    results = {}
    flags = ("--cache-dir", str(OUT / "cache"), "--log-level", "warning", *arguments.server_flag)
    with running_server(repository, arguments=flags) as server, Progress(console=console, transient=True) as bar:
        turns = len(CONCURRENCIES) * (arguments.rounds + 1) * len(SUBJECTS)
        for model in arguments.models:
            task = bar.add_task(model, total=turns)
            results[model] = uvloop.run(
                benchmark(model, folded[model], server.grpc_address, arguments, partial(bar.advance, task))
            )
            console.print(table(model, results[model]))
    for model, cells in results.items():
        console.print(summary(model, cells))
    if arguments.json:
        write(arguments.json, results)


def write(path: Path, results: dict[str, dict[int, dict[str, Figure]]]) -> None:
    figures = {m: {c: {s: asdict(f) for s, f in cell.items()} for c, cell in cells.items()} for m, cells in results.items()}
    machine = {"processor": platform.processor() or platform.machine(), "onnxruntime": onnxruntime.__version__}
    path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
