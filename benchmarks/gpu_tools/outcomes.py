"""What came of the tests on a card, as one JSON and one table."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpu_tools.card import Card

OUTCOMES = ("passed", "failed", "error", "skipped")


def told(stats: Mapping[str, Iterable[Any]]) -> dict[str, dict[str, Any]]:
    """Each test's outcome and seconds: of its call, or of what kept it from one.

    Args:
        stats: pytest's reports by their outcome.
    """
    reports = [(outcome, report) for outcome in OUTCOMES for report in stats.get(outcome, ())]
    return {report.nodeid: {"outcome": outcome, "seconds": round(report.duration, 3)} for outcome, report in reports}


def write(folder: Path, card: Card, tests: Mapping[str, Mapping[str, Any]]) -> Path:
    """Writes `tests-<card>.json` and the same as a table in Markdown; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tests-{card.slug}.json"
    path.write_text(json.dumps({"card": card.as_json(), "tests": tests}, indent=2) + "\n")
    head = [
        f"**{card.name}, driver {card.driver}, CUDA {card.cuda}**",
        "",
        "| test | outcome | seconds |",
        "| --- | --- | --- |",
    ]
    rows = [f"| {name} | {one['outcome']} | {one['seconds']} |" for name, one in tests.items()]
    path.with_suffix(".md").write_text("\n".join([*head, *rows]) + "\n")
    return path
