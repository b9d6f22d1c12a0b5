"""A question: which subjects take turns under which load, which ratios are looked at, and the tables that come of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from serving_tools import figures
from serving_tools.figures import Figure, Turn
from serving_tools.models import Model
from serving_tools.report import Sheet
from serving_tools.subjects import SERVER, Remote, in_process

Cells = dict[int, dict[str, list[Figure]]]  # by callers and subject, one figure a round

IN_PROCESS = "in-process"
BEST = "in-process at its best batch"
WORDS = {"rate": "samples/s", "p50_ms": "p50", "cpu_us": "processor time"}
RATIOS = "ratios: median of the rounds (extremes)"
RATIO_COLUMNS = ("question", "callers", "what", "measured", "target")


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
    targets: Mapping[int, float] = field(default_factory=dict)

    def target(self, callers: int) -> str:
        """The target in words; empty where there is none."""
        sign = "≥" if self.what == "rate" else "≤"
        return f"{sign} {self.targets[callers]:g}" if callers in self.targets else ""


@dataclass(frozen=True)
class Question:
    """What is measured together.

    Attributes:
        title: of the table.
        model: that answers.
        callers: each a part of the table.
        comparisons: what is judged.
        servers: flags of our server, by the name of the subject.
        batch_sizes: of runs in this process; the best is the ceiling.
        stretch: how much longer than others the turns under load are, for models that answer few calls a second.
        spread: whether each caller has a connection of its own.
    """

    title: str
    model: Model
    callers: Sequence[int]
    comparisons: Sequence[Comparison]
    servers: Mapping[str, Sequence[str]] = field(default_factory=lambda: {SERVER: ()})
    batch_sizes: Sequence[int] = ()
    stretch: float = 1.0
    spread: bool = False

    def of(self, subjects: Sequence[str]) -> "Question":
        """The question about these subjects alone."""
        servers = {name: flags for name, flags in self.servers.items() if name in subjects}
        comparisons = [one for one in self.comparisons if {one.one, one.other} <= set(subjects)]
        return replace(self, servers=servers, comparisons=comparisons, batch_sizes=())

    def turns(self, remotes: int, rounds: int) -> int:
        """How many turns it takes with so many subjects outside of this process."""
        return len(self.callers) * (len(self.batch_sizes) + remotes) * (rounds + 1)


def ask(
    question: Question,
    remotes: Mapping[str, Remote],
    *,
    rounds: int,
    seconds: float,
    connections: int,
    advance: Callable[[], None],
) -> Cells:
    """Measures every subject at every number of callers.

    Args:
        question: what is measured.
        remotes: the servers, by the name of the subject.
        rounds: turns of each that count.
        seconds: of a turn.
        connections: over which callers are spread, where there are as many.
        advance: called after each turn.
    """
    cells: Cells = {}
    for callers in question.callers:
        subjects: dict[str, Turn] = in_process(question.model, question.batch_sizes)
        for name, remote in remotes.items():
            turn = remote.turn(callers, callers if question.spread else min(connections, callers))
            subjects[name] = _stretched(turn, question.stretch)
        cells[callers] = with_best(figures.alternate(subjects, rounds=rounds, seconds=seconds, advance=advance))
    return cells


def with_best(rounds: dict[str, list[Figure]]) -> dict[str, list[Figure]]:
    """Names the batch size that was fastest in this process; the others are kept."""
    sizes = [name for name in rounds if name.startswith(IN_PROCESS)]
    best = max(sizes, key=lambda name: figures.median(rounds[name]).rate, default=None)
    return {BEST: rounds[best], **rounds} if best else rounds


def medians(starts: Sequence[Cells]) -> Cells:
    """Makes a round of each start: the medians of its rounds."""
    return {
        callers: {name: [figures.median(cells[callers][name]) for cells in starts] for name in cell}
        for callers, cell in starts[0].items()
    }


def figures_sheet(question: Question, cells: Cells) -> Sheet:
    """Every subject's figures, medians of the rounds."""
    out = Sheet(question.title, ("callers", "subject", "samples/s", "p50 ms", "p99 ms", "server's µs of processor a call"))
    for callers, cell in cells.items():
        for name in (name for name in cell if name != BEST):
            figure = figures.median(cell[name])
            cpu = "" if figure.cpu_us is None else f"{figure.cpu_us:,.0f}"
            out.rows.append([str(callers), name, f"{figure.rate:,.0f}", f"{figure.p50_ms:.2f}", f"{figure.p99_ms:.2f}", cpu])
    return out


def ratio_rows(name: str, question: Question, cells: Cells) -> list[Sequence[str]]:
    """A row of `RATIO_COLUMNS` for each comparison and number of callers."""
    rows: list[Sequence[str]] = []
    for comparison in question.comparisons:
        for callers, cell in cells.items():
            ratio = figures.ratio(cell[comparison.one], cell[comparison.other], comparison.what)
            what = f"{comparison.one} / {comparison.other}, {WORDS[comparison.what]}"
            rows.append([name, str(callers), what, str(ratio), comparison.target(callers)])
    return rows


def as_json(cells: Cells) -> Any:
    """The figures of every round."""
    return {n: {name: [asdict(figure) for figure in rounds] for name, rounds in cell.items()} for n, cell in cells.items()}


def _stretched(turn: Turn, factor: float) -> Turn:
    return lambda seconds: turn(seconds * factor)
