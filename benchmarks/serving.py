"""What does serving a model cost, beside running it and beside moving its bytes?

Each question sets our server beside others, which take turns in the same run under the same load:
    in-process     onnxruntime alone, on the same file: the ceiling of the model
    echo           a bare grpc.aio server on uvloop that takes and gives as many bytes: the ceiling of the transport
    bare handler   the same with the session called in it on the last bytes of the message, and nothing checked
A ratio is taken in each round; its median counts, and the extremes stand beside it. Times on a shared machine mean little.

The load comes from h2load (Debian's package nghttp2-client). All callers share one connection, as the calls of one client
program do; `--connections` spreads them. Two workers are measured with a connection a caller, because a connection belongs
to one worker; so are the others in that table.

    python benchmarks/serving.py                          # everything, some five minutes
    python benchmarks/serving.py small mib --rounds 5     # two of the questions, more exactly
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.progress import Progress
from serving_tools import figures, report
from serving_tools.errors import NoSuchFlagError
from serving_tools.figures import Figure, Turn
from serving_tools.models import MIB, RESNET50, SMALL, Model
from serving_tools.report import NOTICE, Sheet
from serving_tools.subjects import BARE, ECHO, SERVER, in_process, remotes

Cells = dict[int, dict[str, list[Figure]]]  # by callers and subject, one figure a round

BEST = "in-process at its best batch"
IN_PROCESS = "in-process"


@dataclass(frozen=True)
class Comparison:
    """A ratio that is looked at.

    Attributes:
        what: attribute of `Figure`.
        one: the subject that is judged.
        other: the subject that is 1.
        targets: by callers; a rate is to reach its target, anything else is to stay below it.
    """

    what: str
    one: str
    other: str
    targets: Mapping[int, float]

    def target(self, callers: int) -> str:
        """The target in words; empty where there is none."""
        sign = "≥" if self.what == "rate" else "≤"
        return f"{sign} {self.targets[callers]:g}" if callers in self.targets else ""


@dataclass(frozen=True)
class Question:
    """One table.

    Attributes:
        title: of the table.
        model: that answers.
        callers: a row each.
        comparisons: columns.
        servers: flags of our server, by the name of the subject.
        batch_sizes: of runs in this process; the best is the ceiling.
        stretch: how much longer than others the turns under load are, for models that answer few calls a second.
        spread: whether each caller has a connection of its own.
    """

    title: str
    model: Model
    callers: Sequence[int]
    comparisons: Sequence[Comparison]
    servers: dict[str, Sequence[str]] = field(default_factory=lambda: {SERVER: ()})
    batch_sizes: Sequence[int] = ()
    stretch: float = 1.0
    spread: bool = False


WORDS = {"rate": "samples/s", "p50_ms": "p50", "cpu_us": "processor time"}
UNBATCHED, WORKERS, UNMEASURED = "batching off", "2 workers", "metrics off"
QUESTIONS = {
    "resnet50": Question(
        "resnet50, 600 KB in",
        RESNET50,
        (16,),
        [Comparison("rate", SERVER, BEST, {16: 0.97})],
        batch_sizes=(1, 2, 4, 8, 16),
        stretch=3,
    ),
    "small": Question(
        "a small network, 12 KB in and out",
        SMALL,
        (1, 16, 64),
        [
            Comparison("rate", SERVER, ECHO, {1: 0.75, 16: 0.8, 64: 0.8}),
            Comparison("cpu_us", SERVER, ECHO, {1: 1.3, 16: 1.3, 64: 1.3}),
        ],
        batch_sizes=(1,),
    ),
    "mib": Question(
        "identity, 1 MiB in and out", MIB, (1, 16), [Comparison("rate", SERVER, ECHO, {1: 0.85, 16: 0.75})], batch_sizes=(1,)
    ),
    "workers": Question(
        "the small network with two serving processes",
        SMALL,
        (16, 64),
        [Comparison("rate", WORKERS, ECHO, {}), Comparison("rate", WORKERS, SERVER, {16: 1, 64: 1})],
        servers={SERVER: (), WORKERS: ("--workers", "2")},
        spread=True,
    ),
    "batching": Question(
        "what batching costs an idle service",
        SMALL,
        (1,),
        [Comparison("p50_ms", SERVER, UNBATCHED, {1: 1.02})],
        servers={SERVER: (), UNBATCHED: ("--default-max-batch-size", "1")},
    ),
    "metrics": Question(
        "what metrics cost",
        SMALL,
        (1, 16),
        [Comparison("rate", SERVER, UNMEASURED, {1: 0.98, 16: 0.98})],
        servers={SERVER: (), UNMEASURED: ("--no-metrics",)},
    ),
}


def ask(question: Question, arguments: argparse.Namespace, advance: Callable[[], None]) -> Cells:
    """Measures every subject at every number of callers: one figure a round."""
    cells: Cells = {}
    with remotes(question.model, question.servers, arguments.server_flag) as servers:
        for callers in question.callers:
            connections = callers if question.spread else min(arguments.connections, callers)
            subjects: dict[str, Turn] = in_process(question.model, question.batch_sizes)
            for name, server in servers.items():
                subjects[name] = _stretched(server.turn(callers, connections), question.stretch)
            rounds = figures.alternate(subjects, rounds=arguments.rounds, seconds=arguments.seconds, advance=advance)
            cells[callers] = with_best(rounds)
    return cells


def _stretched(turn: Turn, factor: float) -> Turn:
    return lambda seconds: turn(seconds * factor)


def with_best(rounds: dict[str, list[Figure]]) -> dict[str, list[Figure]]:
    """Names the batch size that was fastest in this process; the others are kept."""
    sizes = [name for name in rounds if name.startswith(IN_PROCESS)]
    best = max(sizes, key=lambda name: figures.median(rounds[name]).rate, default=None)
    return {BEST: rounds[best], **rounds} if best else rounds


def figures_sheet(question: Question, cells: Cells) -> Sheet:
    out = Sheet(question.title, ("callers", "subject", "samples/s", "p50 ms", "p99 ms", "server's µs of processor a call"))
    for callers, cell in cells.items():
        for name in (name for name in cell if name != BEST):
            figure = figures.median(cell[name])
            cpu = "" if figure.cpu_us is None else f"{figure.cpu_us:,.0f}"
            out.rows.append([str(callers), name, f"{figure.rate:,.0f}", f"{figure.p50_ms:.2f}", f"{figure.p99_ms:.2f}", cpu])
    return out


def ratio_rows(name: str, question: Question, cells: Cells) -> list[list[str]]:
    rows = []
    for comparison in question.comparisons:
        for callers, cell in cells.items():
            ratio = figures.ratio(cell[comparison.one], cell[comparison.other], comparison.what)
            what = f"{comparison.one} / {comparison.other}, {WORDS[comparison.what]}"
            rows.append([name, str(callers), what, str(ratio), comparison.target(callers)])
    return rows


def as_json(cells: Cells) -> Any:
    return {n: {name: [asdict(figure) for figure in rounds] for name, rounds in cell.items()} for n, cell in cells.items()}


def parse() -> argparse.Namespace:
    parser = report.parser(__doc__, seconds=2, rounds=3)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}; default: all")
    parser.add_argument("--connections", type=int, default=1, help="that callers are spread over, where they can (default: 1)")
    arguments = parser.parse_args()
    if unknown := set(arguments.questions) - set(QUESTIONS):
        parser.error(f"no question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    return arguments


def turns(question: Question, rounds: int) -> int:
    subjects = len(question.batch_sizes) + len(question.servers) + len((ECHO, BARE))
    return len(question.callers) * subjects * (rounds + 1)


def main() -> None:
    arguments = parse()
    results = {}
    ratios = Sheet("ratios: median of the rounds (extremes)", ("question", "callers", "what", "measured", "target"))
    with Progress(console=NOTICE, transient=True) as bar:
        for name in arguments.questions or QUESTIONS:
            question = QUESTIONS[name]
            task = bar.add_task(name, total=turns(question, arguments.rounds))
            try:
                cells = ask(question, arguments, lambda task=task: bar.advance(task))  # type: ignore[misc]
            except NoSuchFlagError as error:
                NOTICE.print(f"{name}: not measured, {error}")
                continue
            results[name] = as_json(cells)
            figures_sheet(question, cells).show(markdown=arguments.markdown)
            ratios.rows.extend(ratio_rows(name, question, cells))
    ratios.show(markdown=arguments.markdown)
    if arguments.json:
        report.write_json(arguments.json, results)


if __name__ == "__main__":
    report.run(main)
