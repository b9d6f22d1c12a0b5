"""The table of metrics in docs/operations.md, and what a registry or a server exports, in the same form."""

import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric

OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"
ROW = re.compile(r"^\| `((?:normserve|nv)_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \| [^|]+ \|$", re.MULTILINE)
SUFFIXES = {"counter": "_total", "info": "_info"}  # which the parsers take off

Table = dict[str, tuple[str, frozenset[str]]]


def documented() -> Table:
    """By name, as queried: type and labels."""
    rows = ROW.findall(OPERATIONS.read_text().partition("\n## Metrics\n")[2])
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def exported(families: Iterable[Metric]) -> Table:
    """Likewise; le left out, and what is the Python client's own."""
    return {
        f.name + SUFFIXES.get(f.type, ""): (
            f.type,
            frozenset(label for sample in f.samples for label in sample.labels) - {"le"},
        )
        for f in families
        if f.name.startswith(("normserve_", "nv_"))
    }
