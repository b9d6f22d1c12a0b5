"""From a file of the repository to what is served: `python -m normserve_models.prepare SOURCE.onnx OUT_DIR`.

Writes OUT_DIR/model.onnx, folded and proved, and OUT_DIR/report.json; the directory appears whole or not at all, and one
that is there already is kept. This is the process that the server starts, so that folding costs the serving process
nothing. Exit status 0; 1 where the proof failed; 2 where the file is no model that can be served: then one line on
stderr says why. SIGTERM ends it with 143, and it leaves nothing behind.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from normserve_models import atomic, graph, memory, runtime, timing, verify
from normserve_models.draw import SamplesError
from normserve_models.fold import fold
from normserve_models.reference import NoReferenceError
from normserve_models.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from normserve_models.kernels import Array

WRONG = (runtime.ProofError, NoReferenceError)
BAD_INPUT = (graph.SourceError, SamplesError, OSError)


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


def fold_file(
    source: Path,
    target: Path,
    *,
    tolerance: float | None = None,
    samples: Mapping[str, Array] | None = None,
    progress: Callable[[float], None] | None = None,
    measure: bool = False,
) -> Report:
    """Fold a file and prove the result.

    A file in which nothing folds is copied as it is, byte for byte, with its external data.

    Args:
        source: The model.
        target: Where to write, in a directory that the caller throws away where this fails.
        tolerance: As in `verify.prove`.
        samples: As in `verify.prove`.
        progress: Called with the share of the proof that is done, 0 to 1.
        measure: Time runs of both files, too.

    Returns:
        The report.

    Raises:
        ProofError, NoReferenceError, SourceError, SamplesError, OSError: As in `prepare` and `verify.prove`.
    """
    report = _fold(source, target)
    if not report.folded:
        report.proof = "Nothing was changed, so there was nothing to prove"
        return report
    memory.make_room()
    _require_valid(source, target)
    with _timed(report, "proof"), _naming(source):
        proof = verify.prove(source, target, tolerance=tolerance, samples=samples, progress=progress)
    report.errors, report.layers = proof.outputs, proof.layers
    report.proof = _proof(proof.narrow, with_samples=samples is not None)
    if measure:
        with _timed(report, "measure"):
            report.run = timing.compare(source, target)
    return report


def plan(source: Path) -> Report:
    """Fold a file in memory; write nothing and prove nothing.

    Raises:
        SourceError: The file is no model that can be served.
    """
    report = _fold(source, None)
    report.proof = "Nothing was written, and nothing proved"
    return report


def _fold(source: Path, target: Path | None) -> Report:
    """Write the folded file, if a target is given, and begin its report; the model, which is as large, is let go then."""
    report = Report("", [])
    with _timed(report, "load"):
        model = graph.load(source)
        report.source_sha256 = _sha256(source)
    try:
        with _timed(report, "fold"):
            report.norms = fold(model)
        if target is None:
            return report
        with _timed(report, "write"):
            _write(source, model, target, report)
    except Exception:
        with _naming(source):
            verify.require_runs(source)  # a graph that is not sound breaks anything: then this says so, in one line
        raise
    return report


def _proof(narrow: set[str], *, with_samples: bool) -> str:
    less = f", {', '.join(sorted(narrow))} not in float64 but in float32" if narrow else ""
    return f"Judged against float64 on drawn inputs{' and on the samples' if with_samples else ''}{less}"


def _write(source: Path, model: ir.Model, target: Path, report: Report) -> None:
    if not report.folded:
        runtime.session(source)
        graph.copy(source, target)
        return
    try:
        graph.save(model, target, f"{target.name}.data")
    except ir.serde.SerdeError as error:  # a string that is no UTF-8, say, which reading lets through
        raise graph.SourceError(f"{source}: not a valid ONNX graph: {error.__cause__ or error}") from error


def _require_valid(source: Path, target: Path) -> None:
    # onnxruntime runs files that onnx.checker refuses: those are not worse for having been folded.
    found = graph.complaint(target)
    if found is not None and graph.complaint(source) is None:
        raise runtime.ProofError(f"onnx.checker refuses the folded file: {found}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _timed(report: Report, step: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    report.seconds[step] = round(time.monotonic() - started, 4)


@contextmanager
def _naming(source: Path) -> Iterator[None]:
    try:
        yield
    except SamplesError as error:
        raise SamplesError(f"{source}: {error}") from error


def _leave(number: int, _: FrameType | None) -> None:
    """End by an exception, so that the temporary directory is removed; a second signal must not interrupt that."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(main())
