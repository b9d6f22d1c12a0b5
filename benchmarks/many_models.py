"""What does each further model in a repository cost: time to start, memory, and the latency of the others?

A server is started on copies of the small network, one beside the other; its time from start to READY, the memory that its
processes hold then (resident, MiB), and the latency of one caller of the last of them are taken, and it is ended. The numbers
of models take turns in each round, an empty repository as the floor. The copies are one file, which is folded once and kept,
so what is measured is opening, proving and holding a model. The echo's latency stands beside ours, from the same round.

    python benchmarks/many_models.py
    python benchmarks/many_models.py --models 1,1000 --rounds 1
"""

import argparse
import math
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import Progress
from serving_tools import figures, h2load, models, report
from serving_tools.figures import Ratio, children
from serving_tools.h2load import Load
from serving_tools.models import OUT, SMALL
from serving_tools.other_servers import PATH, other_server
from serving_tools.report import NOTICE, Sheet
from serving_tools.subjects import INFER, call, free_address, our_server


@dataclass(frozen=True)
class Start:
    """A server that was started and ended.

    Attributes:
        start_s: seconds from its start to READY.
        memory_mib: resident memory of its processes then.
        p50_ms: median latency at one caller; NaN without a model.
        echo_p50_ms: the echo's, right after.
    """

    start_s: float
    memory_mib: float
    p50_ms: float = math.nan
    echo_p50_ms: float = math.nan


def repository_of(count: int) -> Path:
    """A repository with copies of the small network, all of one file."""
    repository = OUT / "many" / str(count)
    shutil.rmtree(repository, ignore_errors=True)
    repository.mkdir(parents=True)
    for number in range(count):
        models.build(replace(SMALL, name=name_of(number)), repository)
    return repository


def name_of(number: int) -> str:
    return f"model_{number:04}"


def start(repository: Path, count: int, arguments: argparse.Namespace) -> Start:
    began = time.perf_counter()
    with our_server(repository, arguments.server_flag) as server:
        seen = Start(time.perf_counter() - began, memory_mib(server.pid))
        if not count:
            return seen
        model = replace(SMALL, name=name_of(count - 1))
        body = h2load.write_body(model.request(), OUT / "requests" / model.name)
        size = len(call(server.address, INFER, model.request()))
        ours = p50_ms(Load(server.address, INFER, body, size, 1), arguments.seconds)
        with other_server("echo", free_address(), size) as echo:
            return replace(seen, p50_ms=ours, echo_p50_ms=p50_ms(Load(echo.address, PATH, body, size, 1), arguments.seconds))


def p50_ms(load: Load, seconds: float) -> float:
    h2load.run(load, seconds=figures.warm_up_seconds(seconds))
    return float(np.median(h2load.run(load, seconds=seconds).latencies)) * 1e3


def memory_mib(pid: int) -> float:
    """Resident memory of a process and of its descendants."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
    return own + sum(memory_mib(child) for child in children(pid))


def measure(arguments: argparse.Namespace, advance: Callable[[], None]) -> dict[int, list[Start]]:
    """One start of each in every round, behind one of the largest that folds and fills the page cache, and does not count."""
    repositories = {count: repository_of(count) for count in (0, *arguments.models)}
    seen: dict[int, list[Start]] = {count: [] for count in repositories}
    start(repositories[arguments.models[-1]], arguments.models[-1], arguments)
    advance()
    for _ in range(arguments.rounds):
        for count, repository in repositories.items():
            seen[count].append(start(repository, count, arguments))
            advance()
    return seen


def sheet(seen: dict[int, list[Start]]) -> Sheet:
    """Medians; what a model adds is counted from the empty server."""
    columns = ("models", "start s", "ms a model", "memory MiB", "MiB a model", "p50 ms", "of the echo's p50")
    out = Sheet("models in one server", columns)
    empty_s, empty_mib = (middle(seen[0], name) for name in ("start_s", "memory_mib"))
    out.rows.append(["0", f"{empty_s:.2f}", "", f"{empty_mib:.0f}", "", "", ""])
    for count, starts in list(seen.items())[1:]:
        seconds, mib = (middle(starts, name) for name in ("start_s", "memory_mib"))
        added = (f"{(seconds - empty_s) / count * 1e3:.1f}", f"{(mib - empty_mib) / count:.2f}")
        latency = Ratio.of([s.p50_ms / s.echo_p50_ms for s in starts])
        texts = (f"{seconds:.2f}", added[0], f"{mib:.0f}", added[1], f"{middle(starts, 'p50_ms'):.3f}", str(latency))
        out.rows.append([str(count), *texts])
    return out


def ratios(seen: dict[int, list[Start]], least: int, most: int) -> Sheet:
    """Whether what grows is linear, and what should stay stays: the most models beside the next fewer."""
    out = Sheet(f"{most} models / {least}: median of the rounds (extremes)", ("what", "measured", "target"))
    latency = [b.p50_ms / b.echo_p50_ms / (a.p50_ms / a.echo_p50_ms) for a, b in zip(seen[least], seen[most], strict=True)]
    out.rows.append(["p50, in units of the echo's", str(Ratio.of(latency)), "flat: 1"])
    for what, name in (("seconds to start, for each model", "start_s"), ("memory, for each model", "memory_mib")):
        rows = zip(seen[0], seen[least], seen[most], strict=True)
        ratio = Ratio.of([added(empty, b, name) / most / (added(empty, a, name) / least) for empty, a, b in rows])
        out.rows.append([what, str(ratio), "linear: ≤ 1"])
    return out


def added(empty: Start, start: Start, name: str) -> float:
    return float(getattr(start, name) - getattr(empty, name))


def middle(starts: list[Start], name: str) -> float:
    return statistics.median(float(getattr(start, name)) for start in starts)


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__, seconds=2, rounds=3)
    parser.add_argument("--models", type=counts, default=(1, 10, 100), help="how many, with commas (default: 1,10,100)")
    return parser.parse_args()


def counts(text: str) -> tuple[int, ...]:
    numbers = tuple(sorted({int(part) for part in text.split(",")}))
    if len(numbers) < 2 or numbers[0] < 1:
        raise argparse.ArgumentTypeError(f"wanted at least two different numbers above 0, got {text}")
    return numbers


def main() -> None:
    arguments = parse()
    with Progress(console=NOTICE, transient=True) as bar:
        task = bar.add_task("starts", total=1 + (len(arguments.models) + 1) * arguments.rounds)
        seen = measure(arguments, lambda: bar.advance(task))
    sheet(seen).show(markdown=arguments.markdown)
    ratios(seen, *arguments.models[-2:]).show(markdown=arguments.markdown)
    if arguments.json:
        report.write_json(arguments.json, {count: [asdict(start) for start in starts] for count, starts in seen.items()})


if __name__ == "__main__":
    report.run(main)
