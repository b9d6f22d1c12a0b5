"""What does a large tensor win by lying in shared memory instead of going through the socket?

One caller sends a tensor of 10 MB through an identity and reads the answer, with Triton's client and with ours, each with and
without shared memory, in turns. The ceiling is the two copies that nobody is spared: into a region, and out of it; the floor is
a bare grpc.aio echo, which takes and gives as many bytes through the socket. What is timed is all that a caller does for an
answer: putting its array into the request or the region, the call, and reading one number of the answer.

    python benchmarks/shared_memory.py
    python benchmarks/shared_memory.py --megabytes 1 --rounds 5
"""

import argparse
import importlib.util
import inspect
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import grpc
import numpy as np
from normserve import Client
from numpy.typing import NDArray
from rich.progress import Progress
from serving_tools import figures, models, report
from serving_tools.figures import Figure, Turn, timed
from serving_tools.models import OUT, Model
from serving_tools.other_servers import PATH, UNLIMITED, other_server
from serving_tools.report import NOTICE, Sheet
from serving_tools.subjects import ECHO, check_flags, free_address, our_server

ALLOW = "--allow-shared-memory"
COPIES, TRITON, OURS = "two copies", "tritonclient", "normserve.Client"
SOCKET, MEMORY = "socket", "shared memory"
TARGET = 5.0
Array = NDArray[np.float32]


def copies(array: Array) -> Callable[[], object]:
    region = np.empty_like(array)
    answer = np.empty_like(array)

    def run() -> object:
        np.copyto(region, array)
        np.copyto(answer, region)
        return answer[0, 0]

    return run


@contextmanager
def echo(array: Array) -> Iterator[Callable[[], object]]:
    address = free_address()
    with other_server("echo", address, array.nbytes), grpc.insecure_channel(address, UNLIMITED) as channel:
        method: Any = channel.unary_unary(PATH)
        yield lambda: np.frombuffer(method(array.tobytes()), np.float32)[0]


@contextmanager
def ours(address: str, model: Model, array: Array, **options: Any) -> Iterator[Callable[[], object]]:
    with Client(address, **options) as client:
        yield lambda: client.infer(model.name, {model.input_name: array})["y"][0, 0]


@contextmanager
def triton_socket(address: str, model: Model, array: Array) -> Iterator[Callable[[], object]]:
    import tritonclient.grpc as triton

    def run() -> object:
        tensor = triton.InferInput(model.input_name, array.shape, "FP32")
        tensor.set_data_from_numpy(array)
        return client.infer(model.name, [tensor]).as_numpy("y")[0, 0]

    with triton.InferenceServerClient(address) as client:
        yield run


@contextmanager
def triton_memory(address: str, model: Model, array: Array) -> Iterator[Callable[[], object]]:
    import tritonclient.grpc as triton
    from tritonclient.utils import shared_memory as regions

    def run() -> object:
        regions.set_shared_memory_region(handles["in"], [array])
        client.infer(model.name, [tensor], outputs=[wanted])
        return regions.get_contents_as_numpy(handles["out"], np.float32, array.shape)[0, 0]

    names = {end: f"normserve_bench_{end}_{uuid.uuid4().hex}" for end in ("in", "out")}
    tensor, wanted = triton.InferInput(model.input_name, array.shape, "FP32"), triton.InferRequestedOutput("y")
    tensor.set_shared_memory(names["in"], array.nbytes)
    wanted.set_shared_memory(names["out"], array.nbytes)
    with ExitStack() as stack:
        client = stack.enter_context(triton.InferenceServerClient(address))
        handles = {}
        for end, name in names.items():
            handles[end] = regions.create_shared_memory_region(name, f"/{name}", array.nbytes)
            stack.callback(regions.destroy_shared_memory_region, handles[end])
            client.register_system_shared_memory(name, f"/{name}", array.nbytes)
            stack.callback(client.unregister_system_shared_memory, name)
        yield run


def subjects(stack: ExitStack, address: str, model: Model, array: Array) -> dict[str, Turn]:
    """A turn for everything that can be measured here; what cannot is said."""
    runs = {COPIES: copies(array), ECHO: stack.enter_context(echo(array))}
    if importlib.util.find_spec("tritonclient"):
        runs[f"{TRITON}, {SOCKET}"] = stack.enter_context(triton_socket(address, model, array))
        runs[f"{TRITON}, {MEMORY}"] = stack.enter_context(triton_memory(address, model, array))
    else:
        NOTICE.print("tritonclient: not measured, it is not installed (dependency group conformance)")
    runs[f"{OURS}, {SOCKET}"] = stack.enter_context(ours(address, model, array))
    if "shared_memory" in inspect.signature(Client).parameters:
        runs[f"{OURS}, {MEMORY}"] = stack.enter_context(ours(address, model, array, shared_memory=True))
    else:
        NOTICE.print("normserve.Client with shared memory: not measured, it has no argument shared_memory")
    return {name: figures.local(timed(run), 1) for name, run in runs.items()}


def measure(arguments: argparse.Namespace) -> dict[str, list[Figure]]:
    check_flags([ALLOW])
    model = Model("tensor", "identity", "x", (round(arguments.megabytes * 1e6 / 4),))
    array = model.samples(1)
    source = models.build(model, OUT / "repositories" / model.name)
    with (
        our_server(source.parents[2], [ALLOW, *arguments.server_flag]) as server,
        ExitStack() as stack,
        Progress(console=NOTICE, transient=True) as bar,
    ):
        turns = subjects(stack, server.address, model, array)
        task = bar.add_task("shared memory", total=len(turns) * (arguments.rounds + 1))
        return figures.alternate(turns, rounds=arguments.rounds, seconds=arguments.seconds, advance=lambda: bar.advance(task))


def sheet(rounds: dict[str, list[Figure]], megabytes: float) -> Sheet:
    out = Sheet(f"{megabytes:g} MB in and out, one caller", ("subject", "answers/s", "p50 ms", "p99 ms"))
    for name, turns in rounds.items():
        figure = figures.median(turns)
        out.rows.append([name, f"{figure.rate:,.0f}", f"{figure.p50_ms:.2f}", f"{figure.p99_ms:.2f}"])
    return out


def ratios(rounds: dict[str, list[Figure]]) -> Sheet:
    out = Sheet("shared memory / socket, answers/s: median of the rounds (extremes)", ("client", "measured", "target"))
    for client in (TRITON, OURS):
        fast, slow = rounds.get(f"{client}, {MEMORY}"), rounds.get(f"{client}, {SOCKET}")
        if fast and slow:
            out.rows.append([client, str(figures.ratio(fast, slow, "rate")), f"≥ {TARGET:g}"])
    return out


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__, seconds=2, rounds=3)
    parser.add_argument("--megabytes", type=report.positive, default=10, help="size of the tensor (default: 10)")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    rounds = measure(arguments)
    sheet(rounds, arguments.megabytes).show(markdown=arguments.markdown)
    ratios(rounds).show(markdown=arguments.markdown)
    if arguments.json:
        report.write_json(arguments.json, {name: [asdict(turn) for turn in turns] for name, turns in rounds.items()})


if __name__ == "__main__":
    report.run(main)
