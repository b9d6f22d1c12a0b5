"""How many batch norms does a fold leave, how exact is what it writes, and what does it win, beside other tools?

Every tool gets the same file, a network that still holds its batch norms. What is left is counted behind onnxruntime's basic
optimisations, because those come for nothing at load time; its higher ones turn a left batch norm into a depthwise convolution,
and would hide it. The error is the largest relative one against float64, on normal values and on uniform ones. The time is that
of one row at onnxruntime's full optimisation, and its ratio is to the file as it was: the tools take turns in each round, and
the median round counts. The ratio of onnxruntime is that of the file to itself, so it tells how much of a ratio is noise.

    python benchmarks/folding.py                                  # all networks, some ten minutes
    python benchmarks/folding.py --networks repvgg,crepe          # two of them
    python benchmarks/folding.py --rounds 9 --seconds 1 --json results.json
"""

import itertools
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import architectures
import numpy as np
import onnx
import onnxruntime
import typer
from folding_tools import TOOLS
from normserve_models import graph
from normserve_models.measure import relative_error
from normserve_models.reference import Reference
from normserve_models.report import Report
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).parent
OUT = HERE / "out" / "folding"
ALONE, OURS = "onnxruntime", "normserve"
ROWS = 2
PATIENCE_SECONDS = 600
# Rounding moves an error by small factors; a wrong fold moves it by powers of ten.
WRONG_FACTOR, WRONG_FLOOR = 100.0, 1e-4

Batch = dict[str, np.ndarray]
console = Console()


@dataclass
class Outcome:
    """What one tool made of one network.

    Attributes:
        tool: Its name.
        failure: Why there is no good file, in a line; empty where there is one.
        norms: The batch norms that are left; `nodes`, all nodes, likewise.
        error: Against float64; infinite where the answers are not finite.
        milliseconds: The median latency of one row.
        ratio: The latency, of that of the file as it was.
        reasons: Of ours only: how many batch norms stayed for which reason.
    """

    tool: str
    failure: str = ""
    norms: int | None = None
    nodes: int | None = None
    error: float | None = None
    milliseconds: float | None = None
    ratio: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)


def convert(tool: str, source: Path, directory: Path) -> tuple[Path, Outcome]:
    """Let a tool write its file, in a process of its own, so that a crash is its own too."""
    if tool == ALONE:
        return source, Outcome(tool)
    target = directory / tool / "model.onnx"
    if tool == OURS:
        arguments = ["-m", "normserve_models.prepare", str(source), str(target.parent)]
    else:
        target.parent.mkdir()
        arguments = [str(HERE / "folding_tools.py"), tool, str(source), str(target)]
    try:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return target, Outcome(tool, f"not done in {PATIENCE_SECONDS} s")
    if done.returncode:
        return target, Outcome(tool, f"failed ({done.returncode}): {last_line(done.stderr)}")
    return target, Outcome(tool, reasons=reasons(target.parent) if tool == OURS else {})


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def reasons(directory: Path) -> dict[str, int]:
    stayed = [norm.reason for norm in Report.from_json((directory / "report.json").read_text()).norms if norm.reason]
    return {reason: stayed.count(reason) for reason in sorted(set(stayed))}


def session(path: Path, threads: int, *, basic: Path | None = None) -> onnxruntime.InferenceSession:
    """Opens a file as it is served, or with basic optimisations only, writing what these leave to `basic`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if basic is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(basic)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def count(path: Path) -> tuple[int, int]:
    """Returns the batch norms and all nodes that onnxruntime's basic optimisations leave."""
    basic = path.with_suffix(".basic.onnx")
    session(path, 1, basic=basic)
    nodes = [node.op_type for node in onnx.load(basic).graph.node]
    return nodes.count(graph.BATCH_NORM), len(nodes)


def batches(name: str, rows: int) -> Iterator[Batch]:
    for seed in range(2):
        generator = np.random.default_rng(seed)
        draw = generator.random if seed else generator.standard_normal
        yield {key: draw((rows, *dims[1:]), np.float32) for key, (_, dims) in architectures.inputs(name).items()}


def error(runtime: onnxruntime.InferenceSession, judged: list[tuple[Batch, Batch]]) -> float:
    """Returns the largest relative error of all outputs on all batches."""
    names = [output.name for output in runtime.get_outputs()]
    return max(
        relative_error(got, wanted[name])
        for batch, wanted in judged
        for name, got in zip(names, runtime.run(names, batch), strict=True)
    )


def examine(path: Path, outcome: Outcome, judged: list[tuple[Batch, Batch]]) -> None:
    """Fills in what is left and how exact it is, or why the file is no good."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as invalid:  # noqa: BLE001 - onnx's errors have no common base
        outcome.failure = f"invalid: {' '.join(str(invalid).split())}"
    try:
        outcome.norms, outcome.nodes = count(path)
        outcome.error = error(session(path, 0), judged)
    except Exception as broken:  # noqa: BLE001 - likewise onnxruntime's
        outcome.failure = f"does not run: {' '.join(str(broken).split())}"


def condemn(outcomes: list[Outcome]) -> None:
    """Says which answers are wrong, by the error of the file as it was."""
    bound = max(WRONG_FLOOR, WRONG_FACTOR * (outcomes[0].error or 0.0))
    for outcome in outcomes:
        if outcome.error is not None and outcome.error > bound:
            outcome.failure = f"wrong answers: {outcome.error:.1e}, the file as it was {outcomes[0].error:.1e}"


def turn(runtime: onnxruntime.InferenceSession, batch: Batch, seconds: float) -> float:
    """Returns the median latency in milliseconds of the calls that fit into a time, at least three."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while len(latencies) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        runtime.run(None, batch)
        latencies.append(time.perf_counter() - started)
    return statistics.median(latencies) * 1e3


def race(
    files: dict[str, Path], source: Path, batch: Batch, rounds: int, seconds: float, threads: int
) -> dict[str, list[float]]:
    """Returns the milliseconds and the ratio of each tool; in each round another one begins."""
    runtimes = {"": session(source, threads)} | {tool: session(path, threads) for tool, path in files.items()}
    order = list(runtimes)
    figures: dict[str, list[tuple[float, float]]] = {tool: [] for tool in files}
    for number in range(rounds + 1):
        order = order[1:] + order[:1]
        times = {tool: turn(runtimes[tool], batch, seconds) for tool in order}
        for tool in files if number else ():  # the first round warms up
            figures[tool].append((times[tool], times[tool] / times[""]))
    return {tool: [statistics.median(column) for column in zip(*pairs, strict=True)] for tool, pairs in figures.items()}


def benchmark(name: str, tools: list[str], rounds: int, seconds: float, threads: int) -> list[Outcome]:
    directory = OUT / name
    source = directory / "source.onnx"
    architectures.write(name, source)
    reference = Reference(graph.load(source))
    judged = [(batch, reference.run(batch)) for batch in batches(name, ROWS)]
    files, outcomes = {}, []
    for tool in tools:
        path, outcome = convert(tool, source, directory)
        outcomes.append(outcome)
        if not outcome.failure:
            examine(path, outcome, judged)
        if outcome.error is not None:
            files[tool] = path
    condemn(outcomes)
    figures = race(files, source, next(batches(name, 1)), rounds, seconds, threads)
    for outcome in outcomes:
        outcome.milliseconds, outcome.ratio = figures.get(outcome.tool, [None, None])
    return outcomes


def table(name: str, outcomes: list[Outcome]) -> Table:
    out = Table("tool", "norms", "nodes", "error", "ms", "ratio", "why norms are left, or what went wrong", title=name)
    for o in outcomes:
        stayed = ", ".join(f"{number} {reason}" for reason, number in o.reasons.items())
        cells = (o.norms, o.nodes, figure(o.error, ".1e"), figure(o.milliseconds, ".3f"), figure(o.ratio, ".3f"))
        out.add_row(o.tool, *("" if cell is None else str(cell) for cell in cells), escape(o.failure[:120] or stayed))
    return out


def figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def installed() -> list[str]:
    """Returns the tools that can run, and says which cannot."""
    found = [ALONE, OURS]
    for tool in TOOLS:
        try:
            version(tool)
            found.append(tool)
        except PackageNotFoundError:
            console.print(f"{tool} is not installed and is left out: pip install --group benchmarks")
    return found


def chosen(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = sorted(set(names) - set(architectures.NAMES))
    if unknown:
        raise typer.BadParameter(f"no network {', '.join(unknown)}; there are {', '.join(architectures.NAMES)}")
    return names


def main(
    networks: Annotated[str, typer.Option(metavar="A,B", help="Which networks.")] = ",".join(architectures.NAMES),
    rounds: Annotated[int, typer.Option(min=1, help="How often each tool has its turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=0, help="How long a turn lasts.")] = 0.5,
    threads: Annotated[int, typer.Option(min=0, help="Of onnxruntime for the latency; 0 is its own choice.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file.")] = None,
) -> None:
    """Compare our fold with other tools on public architectures."""
    names, tools = chosen(networks), installed()
    results = {}
    with Progress(console=console, transient=True) as bar:
        for name in bar.track(names, description="folding"):
            shutil.rmtree(OUT / name, ignore_errors=True)
            (OUT / name).mkdir(parents=True)
            try:
                results[name] = benchmark(name, tools, rounds, seconds, threads)
            except PackageNotFoundError as missing:
                console.print(f"{name} is left out: the package {missing.name} brings its weights, and is not installed")
                continue
            console.print(table(name, results[name]))
    if json_file is not None:
        write(json_file, results)


def write(path: Path, results: dict[str, list[Outcome]]) -> None:
    tools = sorted({outcome.tool for outcomes in results.values() for outcome in outcomes} - {ALONE})
    machine = {"processor": platform.processor() or platform.machine(), "onnxruntime": onnxruntime.__version__}
    for outcome in itertools.chain.from_iterable(results.values()):
        if outcome.error is not None and not np.isfinite(outcome.error):
            outcome.error = None  # JSON has no infinity, and `failure` tells it
    figures = {name: [asdict(outcome) for outcome in outcomes] for name, outcomes in results.items()}
    versions = {tool: version(tool) for tool in tools}
    path.write_text(
        json.dumps({"machine": machine, "versions": versions, "figures": figures}, indent=2, allow_nan=False) + "\n"
    )


if __name__ == "__main__":
    typer.run(main)
