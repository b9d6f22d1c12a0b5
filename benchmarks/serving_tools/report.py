"""Options and output that all benchmarks of the service have in common: a table for the eye or for a page, JSON to keep."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from normserve.testing import ServerStartError
from rich.console import Console
from rich.table import Table

from serving_tools.errors import BenchmarkError

NOTICE = Console(stderr=True)  # a table on stdout can be piped into a page


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        title: what was measured.
        columns: their heads.
        rows: a text for each column.
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def show(self, *, markdown: bool) -> None:
        """Prints it."""
        if markdown:
            print(self.markdown())
        else:
            table = Table(*self.columns, title=self.title, title_justify="left")
            for row in self.rows:
                table.add_row(*row)
            Console().print(table)

    def markdown(self) -> str:
        """The table as a page holds it."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def parser(description: str | None, *, seconds: float, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has.

    Args:
        description: the benchmark's docstring.
        seconds: default length of a turn.
        rounds: default number of rounds.
    """
    out = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--seconds", type=positive, default=seconds, help=f"how long a turn lasts (default: {seconds:g})")
    out.add_argument("--rounds", type=count, default=rounds, help=f"turns of each subject (default: {rounds})")
    out.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    out.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    out.add_argument("--server-flag", action="append", default=[], help="a further flag of our server; repeatable")
    return out


def run(main: Callable[[], None]) -> None:
    """Runs a benchmark; what keeps it from its figures ends it with one line."""
    try:
        main()
    except (BenchmarkError, ServerStartError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def count(text: str) -> int:
    """An argument that is a whole number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"wanted 1 or more, got {text}")
    return number


def positive(text: str) -> float:
    """An argument that is a number above 0."""
    if (number := float(text)) <= 0:
        raise argparse.ArgumentTypeError(f"wanted a number above 0, got {text}")
    return number


def write_json(path: Path, figures: Any) -> None:
    """Writes figures and what they were measured on."""
    packages = {name: version(name) for name in ("grpcio", "numpy", "uvloop")}
    machine = {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version(), **packages}
    path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
