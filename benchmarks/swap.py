"""What do callers notice of a new version, while it is prepared, opened and put in the place of the old one?

The small network serves a steady load, a part of what it can. Then its next version, with other weights, is written and loaded
by call; that is answered when the new version serves. In each round p99 during the swap, from the call to its answer and for
a second more, while the old version goes, stands beside p99 before it. The floor is the echo under the same load, beside the
same preparation of a file by a process that is not the server's: what is worse there is what the machine lacks in cores.

The load comes in runs of `--seconds`, one behind the other: one before, as many as the swap takes, one after. Every call of it
is held to its answer's size, so one that is refused, or lost with the old version, ends the benchmark.

    python benchmarks/swap.py
    python benchmarks/swap.py --load 0.8 --callers 64
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from normserve_proto import open_inference_pb2 as pb
from numpy.typing import NDArray
from rich.progress import Progress
from serving_tools import figures, h2load, models, report
from serving_tools.errors import LoadError
from serving_tools.figures import Ratio
from serving_tools.h2load import Answers, Load
from serving_tools.models import OUT, SMALL
from serving_tools.other_servers import PATH, other_server
from serving_tools.report import NOTICE, Sheet
from serving_tools.subjects import (
    ECHO,
    INFER,
    SERVER,
    call,
    check_flags,
    free_address,
    our_server,
)

FLAGS = ("--model-control-mode", "explicit", "--load-model", SMALL.name)
RELOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
AFTERWARDS_SECONDS = 1.0  # the old version finishes its calls and gives its memory back
MAX_ROUNDS = 7  # versions of one digit, so that all answers have the same size


@dataclass(frozen=True)
class Windows:
    """One swap under load.

    Attributes:
        before_ms: p99 before it; `during_ms` and `after_ms` likewise, in milliseconds.
        worst_ms: the slowest call during it.
        seconds: from the call that loads to its answer.
        calls: how many were answered, of those that were made.
    """

    before_ms: float
    during_ms: float
    after_ms: float
    worst_ms: float
    seconds: float
    calls: int

    @property
    def ratio(self) -> float:
        """P99 during the swap, in units of p99 before."""
        return self.during_ms / self.before_ms


@contextmanager
def subjects(flags: Sequence[str]) -> Iterator[dict[str, tuple[Load, Callable[[int], object]]]]:
    """For each subject its load, and what makes the swap to a version happen and waits for its end."""
    check_flags(FLAGS)
    shutil.rmtree(OUT / "swap", ignore_errors=True)  # with the cache: what was folded once would be swapped in no time
    repository = OUT / "swap" / "repository"
    first = write_version(repository, 1)
    body = h2load.write_body(SMALL.request(), OUT / "requests" / SMALL.name)
    with our_server(repository, [*FLAGS, *flags], OUT / "swap" / "cache") as ours:
        size = len(call(ours.address, INFER, SMALL.request()))
        with other_server("echo", free_address(), size) as echo:
            yield {
                ECHO: (Load(echo.address, PATH, body, size, 1), lambda _version: prepare_elsewhere(first)),
                SERVER: (Load(ours.address, INFER, body, size, 1), lambda version: swap(repository, ours.address, version)),
            }


def write_version(repository: Path, version: int) -> Path:
    """The folder appears whole, as a deployment should make it."""
    folder = repository / SMALL.name / f"{version}.new"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(models.small_network(seed=version))
    return folder.rename(folder.with_suffix("")) / "model.onnx"


def swap(repository: Path, address: str, version: int) -> None:
    write_version(repository, version)
    call(address, RELOAD, pb.RepositoryModelLoadRequest(model_name=SMALL.name).SerializeToString())
    answer = pb.ModelInferResponse.FromString(call(address, INFER, SMALL.request()))
    if answer.model_version != str(version):
        raise LoadError(f"version {version} was loaded, and version {answer.model_version} answers")


def prepare_elsewhere(source: Path) -> None:
    """What the server has done for a new version, with nobody waiting for it."""
    with tempfile.TemporaryDirectory() as folder:
        models.run_module("normserve_models.prepare", str(source), f"{folder}/folded")


def watch(load: Load, rate: float, change: Callable[[], object], seconds: float) -> Windows:
    """Holds a load, lets `change` happen in it, and cuts what was seen in three."""
    calls = max(round(rate * seconds), load.callers)
    seen = [h2load.run(load, calls=calls, calls_per_second=rate)]
    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(times_of, change)
        while not (changing.done() and time.time() > changing.result()[1] + AFTERWARDS_SECONDS):
            seen.append(h2load.run(load, calls=calls, calls_per_second=rate))
    seen.append(h2load.run(load, calls=calls, calls_per_second=rate))
    answers = Answers(*(np.concatenate(parts) for parts in zip(*((a.starts, a.latencies) for a in seen), strict=True)))
    return cut(answers, *changing.result())


def times_of(change: Callable[[], object]) -> tuple[float, float]:
    """When it began and when it ended, seconds since the epoch, which is what the log of the load has."""
    began = time.time()
    change()
    return began, time.time()


def cut(answers: Answers, began: float, ended: float) -> Windows:
    """A call belongs to where it ended."""
    ends = answers.starts + answers.latencies
    ms = answers.latencies * 1e3
    before = ends < began
    after = ends >= ended + AFTERWARDS_SECONDS
    during = (ends >= began) & ~after
    return Windows(
        before_ms=p99(ms[before]),
        during_ms=p99(ms[during]),
        after_ms=p99(ms[after]),
        worst_ms=float(ms[during].max()),
        seconds=ended - began,
        calls=len(ms),
    )


def p99(values: NDArray[np.float64]) -> float:
    return float(np.percentile(values, 99))


def measure(arguments: argparse.Namespace, advance: Callable[[], None]) -> dict[str, list[Windows]]:
    """A swap of each subject in every round, under a part of the load that our server can take."""
    seen: dict[str, list[Windows]] = {ECHO: [], SERVER: []}
    with subjects(arguments.server_flag) as both:
        loads = {
            name: replace(load, callers=arguments.callers, connections=arguments.connections)
            for name, (load, _) in both.items()
        }
        answers = h2load.run(loads[SERVER], seconds=arguments.seconds)
        rate = arguments.load * figures.answer_rate(answers, arguments.callers, arguments.seconds)
        for round_ in range(arguments.rounds):
            for name, (_, change) in both.items():
                seen[name].append(watch(loads[name], rate, partial(change, round_ + 2), arguments.seconds))
                advance()
    return seen


def sheet(seen: dict[str, list[Windows]]) -> Sheet:
    columns = (
        "subject",
        "round",
        "p99 before ms",
        "during ms",
        "after ms",
        "slowest during ms",
        "swap s",
        "calls, all answered",
    )
    out = Sheet("a new version under load", columns)
    for name, rounds in seen.items():
        for number, w in enumerate(rounds, start=1):
            times = (w.before_ms, w.during_ms, w.after_ms, w.worst_ms, w.seconds)
            out.rows.append([name, str(number), *(f"{t:.2f}" for t in times), f"{w.calls:,}"])
    return out


def ratios(seen: dict[str, list[Windows]]) -> Sheet:
    out = Sheet("p99 during / before: median of the rounds (extremes)", ("subject", "measured", "target"))
    for name, rounds in seen.items():
        out.rows.append([name, str(Ratio.of([w.ratio for w in rounds])), "≤ 2" if name == SERVER else ""])
    return out


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__, seconds=4, rounds=3)
    parser.add_argument("--load", type=report.positive, default=0.5, help="part of what the server can take (default: 0.5)")
    parser.add_argument("--callers", type=report.count, default=16, help="calls under way at most (default: 16)")
    parser.add_argument("--connections", type=report.count, default=1, help="that callers are spread over (default: 1)")
    arguments = parser.parse_args()
    if arguments.rounds > MAX_ROUNDS:
        parser.error(f"--rounds: wanted at most {MAX_ROUNDS}, got {arguments.rounds}")
    return arguments


def main() -> None:
    arguments = parse()
    with Progress(console=NOTICE, transient=True) as bar:
        task = bar.add_task("swaps", total=2 * arguments.rounds)
        seen = measure(arguments, lambda: bar.advance(task))
    sheet(seen).show(markdown=arguments.markdown)
    ratios(seen).show(markdown=arguments.markdown)
    if arguments.json:
        report.write_json(arguments.json, {name: [asdict(w) for w in rounds] for name, rounds in seen.items()})


if __name__ == "__main__":
    report.run(main)
