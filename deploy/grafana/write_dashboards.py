"""Writes the dashboards' JSON, or with --check compares it: `python deploy/grafana/write_dashboards.py [--check]`."""

import argparse
import difflib
import json
import sys
from pathlib import Path

from generator import batching, gpus, latency, normalizers, overview
from grafana_foundation_sdk.cog.encoder import JSONEncoder

DASHBOARDS = Path(__file__).parent / "dashboards"
MODULES = (overview, latency, batching, gpus, normalizers)


def generated() -> dict[str, str]:
    """Gives the JSON of each dashboard, by its file's name."""
    boards = [module.dashboard() for module in MODULES]
    return {
        f"{(board.uid or '').removeprefix('normserve-')}.json": json.dumps(board, cls=JSONEncoder, indent=2) + "\n"
        for board in boards
    }


def differences() -> str:
    """Gives what is on disk and should not be, and the other way round; empty where they agree."""
    wanted = generated()
    there = {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}
    return "".join(
        line
        for name in sorted(wanted.keys() | there.keys())
        for line in difflib.unified_diff(
            there.get(name, "").splitlines(keepends=True),
            wanted.get(name, "").splitlines(keepends=True),
            name,
            f"{name}, generated",
        )
    )


def main() -> int:
    """Writes them, or with --check only compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where the files are not what is generated"
    )
    if parser.parse_args().check:
        found = differences()
        sys.stderr.write(found)
        return int(bool(found))
    for name, text in generated().items():
        (DASHBOARDS / name).write_text(text)
    for path in DASHBOARDS.glob("*.json"):
        if path.name not in generated():
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
