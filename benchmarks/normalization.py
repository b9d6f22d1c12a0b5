"""What do the normalization operators cost, in a process beside PyTorch's, and as a service beside an echo?

In process: each operator as the server calls it, from numpy array to numpy array, beside torch.nn.functional's on tensors, in
turns, on the same 6.4 MB of float32 and two threads. The floor is a copy of the tensor.

Through gRPC: the calls of one operator beside a bare grpc.aio echo that takes and gives as many bytes.

Normalizers: what normalizers.py measures, with 64 callers; it has more options.

    python benchmarks/normalization.py
    python benchmarks/normalization.py in-process --rounds 9
    python benchmarks/normalization.py grpc --callers 4
    python benchmarks/normalization.py normalizers
"""

import argparse
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import normalizers
import numpy as np
from normserve import functional
from normserve.normalization import Normalization
from normserve_server import memory, operators
from numpy.typing import NDArray
from rich.progress import Progress
from serving_tools import figures, h2load, report
from serving_tools.figures import Figure, Turn, timed
from serving_tools.models import OUT
from serving_tools.other_servers import PATH, Process, other_server
from serving_tools.report import NOTICE, Sheet
from serving_tools.subjects import ECHO, Remote, call, free_address, our_server

NORMALIZE = "/normserve.v1.NormalizationService/Normalize"
SHAPE = (32, 64, 28, 28)  # 6.4 MB of float32
SMALL = (4, 64, 4, 4)  # 16 KiB
THREADS = 2
COPY, TORCH, OURS = "copy", "torch", "normserve"
TARGETS = {"batch_norm, training": 0.5, "instance_norm": 0.3}  # of torch's time; 1 for the others
ECHO_TARGET = 0.9  # of the echo's rate
QUESTIONS = ("in-process", "grpc", "normalizers")
Array = NDArray[np.float32]
Rounds = dict[str, dict[str, list[Figure]]]


def arguments_of(shape: tuple[int, ...], only: Collection[str]) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """By the name of a row: the operator, and its arguments behind the input; of all operators, or of `only` some."""
    rng = np.random.default_rng(0)
    channels, trailing = shape[1], shape[2:]
    mean, var, weight, bias = (rng.random(channels, np.float32) + 0.5 for _ in range(4))
    inner, inner_bias = (rng.random(trailing, np.float32) for _ in range(2))
    rows: dict[str, tuple[str, tuple[Any, ...]]] = {
        "batch_norm": ("batch_norm", (mean, var, weight, bias)),
        "batch_norm, training": ("batch_norm", (mean, var, weight, bias, True)),
        "instance_norm": ("instance_norm", (None, None, weight, bias)),
        "group_norm": ("group_norm", (8, weight, bias)),
        "layer_norm": ("layer_norm", (trailing, inner, inner_bias)),
        "rms_norm": ("rms_norm", (trailing, inner)),
        "local_response_norm": ("local_response_norm", (5,)),
        "normalize": ("normalize", ()),
    }
    return {row: found for row, found in rows.items() if not only or found[0] in only}


def sample(shape: tuple[int, ...]) -> Array:
    """Aligned as torch aligns its tensors, which ours are to be compared with."""
    import torch

    values: Array = torch.empty(shape).numpy()
    values[...] = np.random.default_rng(1).normal(1.5, 2.0, shape)
    return values


def in_process(advance: Callable[[], None], arguments: argparse.Namespace) -> Rounds:
    import torch

    torch.set_num_threads(THREADS)
    memory.keep_freed()
    x = sample(SHAPE)
    tensor = torch.from_numpy(x)

    def turns(operator: str, given: tuple[Any, ...]) -> dict[str, Turn]:
        theirs = [torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value for value in given]
        function, reference = getattr(operators, operator), getattr(torch.nn.functional, operator)
        runs: dict[str, Callable[[], object]] = {
            COPY: tensor.clone,
            TORCH: lambda: reference(tensor, *theirs),
            OURS: lambda: function(x, *given),
        }
        return {name: figures.local(timed(run), 1) for name, run in runs.items()}

    return {
        row: figures.alternate(turns(operator, given), rounds=arguments.rounds, seconds=arguments.seconds / 8, advance=advance)
        for row, (operator, given) in arguments_of(SHAPE, arguments.operator).items()
    }


@contextmanager
def servers(flags: list[str]) -> Iterator[Callable[[str, Normalization], dict[str, Remote]]]:
    """Our server, and a way to get it and an echo for a request."""
    empty = OUT / "repositories" / "nothing"
    empty.mkdir(parents=True, exist_ok=True)
    echoes: dict[int, Process] = {}
    with our_server(empty, flags) as ours, ExitStack() as stack:

        def remotes(row: str, request: Normalization) -> dict[str, Remote]:
            message = request.request()
            body = h2load.write_body(message, OUT / "requests" / f"normalize {row}")
            size = len(call(ours.address, NORMALIZE, message))
            if size not in echoes:
                echoes[size] = stack.enter_context(other_server("echo", free_address(), size))
            return {ECHO: Remote(echoes[size], PATH, body, size), OURS: Remote(ours, NORMALIZE, body, size)}

        yield remotes


def through_grpc(advance: Callable[[], None], arguments: argparse.Namespace) -> Rounds:
    cells: Rounds = {}
    with servers(arguments.server_flag) as remotes:
        for shape in (SHAPE, SMALL):
            x = sample(shape)
            for row, (operator, given) in arguments_of(shape, arguments.operator).items():
                name = f"{row}, {x.nbytes / 1e6:.3g} MB"
                found = remotes(name, getattr(functional, operator)(x, *given))
                turns = {who: remote.turn(arguments.callers, 1) for who, remote in found.items()}
                cells[name] = figures.alternate(turns, rounds=arguments.rounds, seconds=arguments.seconds, advance=advance)
    return cells


def process_sheet(cells: Rounds) -> Sheet:
    megabytes = np.prod(SHAPE) * 4 / 1e6
    title = f"{megabytes:.3g} MB of float32, {THREADS} threads: median of the rounds (extremes)"
    out = Sheet(title, ("operator", "copy ms", "torch ms", "normserve ms", "normserve / torch", "target"))
    for row, turns in cells.items():
        times = [f"{figures.median(turns[who]).p50_ms:.3f}" for who in (COPY, TORCH, OURS)]
        ratio = figures.ratio(turns[OURS], turns[TORCH], "p50_ms")
        out.rows.append([row, *times, str(ratio), f"≤ {TARGETS.get(row, 1):g}"])
    return out


def grpc_sheet(cells: Rounds, callers: int) -> Sheet:
    title = f"through gRPC, {callers} caller{'s' * (callers > 1)}: median of the rounds (extremes)"
    out = Sheet(title, ("call", "echo calls/s", "normserve calls/s", "normserve / echo", "target"))
    for row, turns in cells.items():
        rates = [f"{figures.median(turns[who]).rate:,.0f}" for who in (ECHO, OURS)]
        out.rows.append([row, *rates, str(figures.ratio(turns[OURS], turns[ECHO], "rate")), f"≥ {ECHO_TARGET:g}"])
    return out


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__, seconds=1.0, rounds=5)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}; default: all")
    parser.add_argument("--callers", type=report.count, default=1, help="calls under way through gRPC (default: 1)")
    parser.add_argument("--operator", action="append", default=[], help="one of them; repeatable (default: all)")
    arguments = parser.parse_args()
    if missing := set(arguments.operator) - {operator for operator, _ in arguments_of(SMALL, ()).values()}:
        parser.error(f"no operator {', '.join(sorted(missing))}")
    if unknown := set(arguments.questions) - set(QUESTIONS):
        parser.error(f"no question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    return arguments


def common(arguments: argparse.Namespace) -> list[str]:
    """Those options that all benchmarks have."""
    flags = [f"--server-flag={flag}" for flag in arguments.server_flag]
    markdown = ["--markdown"] if arguments.markdown else []
    return [f"--seconds={arguments.seconds}", f"--rounds={arguments.rounds}", *markdown, *flags]


def main() -> None:
    arguments = parse()
    asked = arguments.questions or QUESTIONS
    cells: dict[str, Rounds] = {}
    observing = normalizers.parse(common(arguments))
    updates: dict[int, dict[str, list[Figure]]] = {}
    with Progress(console=NOTICE, transient=True) as bar:
        task = bar.add_task("normalization", total=None)
        if "in-process" in asked:
            cells["in-process"] = in_process(lambda: bar.advance(task), arguments)
        if "grpc" in asked:
            cells["grpc"] = through_grpc(lambda: bar.advance(task), arguments)
        if "normalizers" in asked:
            updates = normalizers.measure(observing, lambda: bar.advance(task))
            cells["normalizers"] = {f"{callers} callers": turns for callers, turns in updates.items()}
    if "in-process" in cells:
        process_sheet(cells["in-process"]).show(markdown=arguments.markdown)
    if "grpc" in cells:
        grpc_sheet(cells["grpc"], arguments.callers).show(markdown=arguments.markdown)
    if updates:
        normalizers.show(updates, observing)
    if arguments.json:
        out = {
            question: {
                row: {who: [asdict(turn) for turn in turns] for who, turns in subjects.items()}
                for row, subjects in rows.items()
            }
            for question, rows in cells.items()
        }
        report.write_json(arguments.json, out)


if __name__ == "__main__":
    report.run(main)
