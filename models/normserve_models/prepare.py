"""From a file of the repository to what is served: `python -m normserve_models.prepare SOURCE.onnx OUT_DIR`.

Writes OUT_DIR/model.onnx, folded and proved, and OUT_DIR/report.json; the directory appears whole or not at all, and one
that is there already is kept. This is the process that the server starts, so that folding costs the serving process
nothing. Exit status 0; 1 where the proof failed; 2 where the file is no model that can be served: then one line on
stderr says why. SIGTERM ends it with 143, and it leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from normserve_models import atomic, memory
from normserve_models.fold_file import BAD_INPUT, WRONG, Wanted, fold_file, plan

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["BAD_INPUT", "WRONG", "Wanted", "fold_file", "main", "plan", "prepare"]


def main(arguments: list[str] | None = None) -> int:
    """Prepare one version; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m normserve_models.prepare", description=__doc__)
    parser.add_argument("source", type=Path, help="the model as it stands in the repository")
    parser.add_argument("out", type=Path, help="the directory to make")
    options = parser.parse_args(arguments)
    memory.settle()
    try:
        prepare(options.source, options.out)
    except WRONG as error:
        sys.stderr.write(f"{options.source}: {error}\n")
        return 1
    except BAD_INPUT as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def prepare(source: Path, out: Path) -> None:
    """Write `out`/model.onnx and `out`/report.json.

    Raises:
        ProofError: The folded file is not exact enough.
        NoReferenceError: It cannot be judged.
        SourceError: The file is no model that can be served.
        OSError: A file cannot be read or written.
    """
    if out.is_dir():
        return
    with atomic.new_directory(out, exist_ok=True) as directory:
        report = fold_file(source, directory / "model.onnx")
        (directory / "report.json").write_text(report.to_json())


def _leave(number: int, _: FrameType | None) -> None:
    """End by an exception, so that the temporary directory is removed; a second signal must not interrupt that."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(19)  # the server that waits for this has callers
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(main())
