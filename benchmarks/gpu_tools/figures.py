"""What was measured beside what bounds it, as one JSON and one table."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from serving_tools.report import Sheet

from gpu_tools.card import Card

COLUMNS = ("question", "measured", "figure", "beside", "its figure", "compared", "wanted", "")


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        question: that it answers.
        what: was measured.
        figure: what it gave; None where it was not measured.
        unit: of the figures.
        beside: what it is compared with, in the same run; empty for nothing.
        ceiling: what that gave.
        compared: the ratio of the two, or their difference in `unit` where `differs`.
        wanted: what that should be: at least, or at most where `at_most`; None where nothing is.
        note: why there is no figure, or what has to be known of it.
    """

    question: str
    what: str
    figure: float | None
    unit: str
    beside: str = ""
    ceiling: float | None = None
    differs: bool = False
    wanted: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def compared(self) -> float | None:
        """The ratio, or the difference; None where one of the two is missing."""
        if self.figure is None or not self.ceiling:
            return None
        return self.figure - self.ceiling if self.differs else self.figure / self.ceiling

    @property
    def met(self) -> bool | None:
        """Whether it is as wanted; None where that cannot be told."""
        if self.compared is None or self.wanted is None:
            return None
        return self.compared <= self.wanted if self.at_most else self.compared >= self.wanted

    def cells(self) -> list[str]:
        """A line of the table."""
        unit = f" {self.unit}" if self.differs else ""
        compared = "" if self.compared is None else f"{self.compared:.3g}{unit}"
        wanted = "" if self.wanted is None else f"{'≤' if self.at_most else '≥'} {self.wanted:g}{unit}"
        verdict = {None: "", True: "met", False: "missed"}[self.met]
        texts = [self._text(self.figure), self.beside, self._text(self.ceiling), compared, wanted]
        return [self.question, self.what, *texts, " ".join(filter(None, (verdict, self.note)))]

    def _text(self, figure: float | None) -> str:
        return "" if figure is None else f"{figure:.4g} {self.unit}"


def sheet(card: Card, rows: Sequence[Row], *, rehearsal: bool) -> Sheet:
    """The table; a rehearsal says so on top."""
    title = "Rehearsal on the CPU: these figures mean nothing" if rehearsal else card.name
    versions = ", ".join(f"{name} {number}" for name, number in card.packages.items())
    driver = f"driver {card.driver}, CUDA {card.cuda}, " if card.driver else ""
    return Sheet(f"{title} ({driver}{versions})", COLUMNS, [row.cells() for row in rows])


def write(folder: Path, name: str, card: Card, rows: Sequence[Row], *, rehearsal: bool) -> Path:
    """Writes `<name>-<card>.json` and the same as a table in Markdown; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{card.slug}.json"
    figures = [{**asdict(row), "compared": row.compared, "met": row.met} for row in rows]
    content = {"rehearsal": rehearsal, "card": card.as_json(), "figures": figures}
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    path.with_suffix(".md").write_text(sheet(card, rows, rehearsal=rehearsal).markdown())
    return path
