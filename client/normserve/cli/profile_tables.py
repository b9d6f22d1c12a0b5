"""What `normserve profile` shows: the stages with a drawn bar, and the kernels."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from normserve.cli.figures import percent, seconds
from normserve.cli.profile_stages import COPY_IN, COPY_OUT, HOST, KERNELS, OUTSIDE, WAITING, Kernel, Profile, Stage

COLOURS = {COPY_IN: "cyan", KERNELS: "green", COPY_OUT: "blue", HOST: "yellow", WAITING: "red", OUTSIDE: "white"}
WIDTH = 24  # cells that the whole request takes
MOST_KERNELS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def view(profile: Profile) -> Group:
    """Title, stages, totals, kernels and notes."""
    samples = f" of {profile.samples} samples" if profile.samples != 1 else ""
    title = f"{profile.subject}: {seconds(profile.seconds)} a request{samples}, {profile.average} of {profile.requests}"
    parts: list[RenderableType] = [Text(title, style="bold"), _stages(profile), _totals(profile)]
    if profile.kernels:
        parts.append(_kernels(profile.kernels))
    notes = [Text(f"note: {note}") for note in profile.notes]
    return Group(*(part for pair in zip(parts, [""] * len(parts), strict=True) for part in pair), *notes)


def bar(began: float, length: float, width: int = WIDTH) -> str:
    """Draws a stretch of a line, to an eighth of a cell; a stretch that would not be seen is a hair.

    Args:
        began: where it begins, from 0 to 1.
        length: from 0 to 1.
        width: cells of the whole line, > 0.
    """
    if length <= 0:
        return ""
    first = min(int(began * width), width - 1)
    eighths = round((began + length) * width * 8) - first * 8 if length * width * 8 >= 1 else 1
    filled = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return " " * first + filled[: width - first]


def _stages(profile: Profile) -> Table:
    table = _table("stage", "kind", "time", "share")
    table.columns[1].justify = "left"
    table.add_column("", width=WIDTH)
    for column in table.columns:
        column.no_wrap = True
    whole = profile.seconds
    for began, stage in _placed(profile.stages):
        share = stage.seconds / whole if whole else 0.0
        drawn = Text(bar(began / whole if whole else 0.0, share), style=COLOURS[stage.kind])
        table.add_row(escape(stage.name), stage.kind, seconds(stage.seconds), percent(share), drawn)
    return table


def _placed(stages: Sequence[Stage]) -> Iterator[tuple[float, Stage]]:
    """Each stage with the seconds before it."""
    began = 0.0
    for stage in stages:
        yield began, stage
        began += stage.seconds


def _totals(profile: Profile) -> Text:
    totals = profile.by_kind()
    parts = [(f"{kind} {percent(spent / profile.seconds)}", COLOURS[kind]) for kind, spent in totals.items()]
    return Text(", ").join(Text(*part) for part in parts)


def _kernels(kernels: Sequence[Kernel]) -> Table:
    table = _table("operator", "runs on", "nodes", "time", "share")
    table.columns[1].justify = "left"
    whole = sum(kernel.seconds for kernel in kernels) or 1.0
    for kernel in kernels[:MOST_KERNELS]:
        provider = kernel.provider.removesuffix("ExecutionProvider")
        table.add_row(kernel.operator, provider, str(kernel.nodes), seconds(kernel.seconds), percent(kernel.seconds / whole))
    left = kernels[MOST_KERNELS:]
    if left:
        spent = sum(kernel.seconds for kernel in left)
        nodes = str(sum(kernel.nodes for kernel in left))
        table.add_row(f"{len(left)} more", "", nodes, seconds(spent), percent(spent / whole))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in others:
        table.add_column(name, justify="right")
    return table
