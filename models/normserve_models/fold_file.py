"""A file folded, proved, and reported: what `normserve fold` and the server's child process do alike."""

from __future__ import annotations

import hashlib
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from normserve_models import graph, memory, precision, rewrite, runtime, timing, verify
from normserve_models.draw import SamplesError
from normserve_models.fold import fold_unrounded
from normserve_models.normalize_input import NormalizationError
from normserve_models.precision_proof import prove_precision
from normserve_models.reference import NoReferenceError
from normserve_models.report import Precision, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from normserve_models.affine import F64
    from normserve_models.kernels import Array
    from normserve_models.normalize_input import Normalization
    from normserve_models.precision import Conversion

WRONG = (runtime.ProofError, NoReferenceError, precision.PrecisionError)
BAD_INPUT = (graph.SourceError, SamplesError, NormalizationError, OSError)
EXPECTED = (*WRONG, *BAD_INPUT)


@dataclass(frozen=True)
class Wanted:
    """What a file is to be beside folded.

    Attributes:
        normalization: What goes in front of its input, and is folded like a batch norm.
        precision: FLOAT16 or BFLOAT16, to which its floats are rounded.
    """

    normalization: Normalization | None = None
    precision: ir.DataType | None = None


NOTHING_ELSE = Wanted()


def fold_file(
    source: Path,
    target: Path,
    wanted: Wanted = NOTHING_ELSE,
    *,
    tolerance: float | None = None,
    samples: Mapping[str, Array] | None = None,
    progress: Callable[[float], None] | None = None,
    measure: bool = False,
) -> Report:
    """Fold a file and prove the result.

    A file in which nothing folds, and of which nothing else is wanted, is copied byte for byte, with its external data.

    Args:
        source: The model.
        target: Where to write, in a directory that the caller throws away where this fails.
        wanted: What else to do. The fold is proved before its floats are rounded to 16 bits, and what that gives has a proof
            of its own.
        tolerance: As in `verify.prove`. Of a conversion to 16 bits, it is the tolerance of that.
        samples: As in `verify.prove`; what callers send, where a normalization is wanted.
        progress: Called with the share of the proof that is done, 0 to 1.
        measure: Time runs of both files, too; not those of bfloat16.

    Returns:
        The report.

    Raises:
        PrecisionError: A constant does not fit the type that is wanted.
        NormalizationError: The normalization does not fit the input.
        ProofError, NoReferenceError, SourceError, SamplesError, OSError: As in `prepare` and `verify.prove`.
    """
    report = Report("", [])
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fold-") as scratch:
        files = Files(source, target, Path(scratch), wanted)
        conversion = _write_files(files, report)
        if not report.folded and wanted == NOTHING_ELSE:
            report.proof = "Nothing was changed, so there was nothing to prove"
            return report
        memory.make_room()
        _require_valid(files.judged, target)
        with _timed(report, "proof"), _naming(source):
            narrow = wanted.precision is not None
            proof = verify.prove(
                files.judged, files.folded, tolerance=None if narrow else tolerance, samples=samples, progress=progress
            )
            if conversion is not None:
                report.precision = _prove_precision(files, conversion, tolerance, samples)
        report.errors, report.layers = proof.outputs, proof.layers
        report.proof = _proof(proof.narrow, with_samples=samples is not None)
        if measure and wanted.precision is not ir.DataType.BFLOAT16:  # which onnxruntime's CPU does not run
            with _timed(report, "measure"):
                report.run = timing.compare(files.judged, target)
    return report


def plan(source: Path, wanted: Wanted = NOTHING_ELSE) -> Report:
    """Fold a file in memory; write nothing and prove nothing.

    Raises:
        SourceError, NormalizationError: As in `fold_file`.
    """
    report = Report("", [])
    with _sound(source):
        _fold(source, wanted, report)
    report.proof = "Nothing was written, and nothing proved"
    return report


@dataclass(frozen=True)
class Files:
    """The files of one fold.

    Attributes:
        source: The model as it is.
        target: What is asked for.
        scratch: A directory for what is needed until all is proved.
        wanted: What else is.
    """

    source: Path
    target: Path
    scratch: Path
    wanted: Wanted

    @property
    def judged(self) -> Path:
        """What the result is judged against: the source, with the normalization in front of it."""
        return self.source if self.wanted.normalization is None else self.scratch / "normalized.onnx"

    @property
    def folded(self) -> Path:
        """The folded file in the types of the source."""
        return self.target if self.wanted.precision is None else self.scratch / "folded.onnx"


def _write_files(files: Files, report: Report) -> Conversion | None:
    """Write all files, and begin the report; the model, which is as large as they are, is let go then."""
    if files.wanted.normalization is not None:
        model = graph.load(files.source)
        files.wanted.normalization.insert(model)
        graph.save(model, files.judged, "normalized.data")
        del model
    with _sound(files.source):
        model, exact = _fold(files.source, files.wanted, report)
        with _timed(report, "write"):
            return _write(files, model, exact, report)


def _fold(source: Path, wanted: Wanted, report: Report) -> tuple[ir.Model, dict[ir.Value, F64]]:
    with _timed(report, "load"):
        model = graph.load(source)
        report.source_sha256 = _sha256(source)
    known = {} if wanted.normalization is None else wanted.normalization.insert(model)
    with _timed(report, "fold"):
        report.norms, exact = fold_unrounded(model, known)
    return model, exact


def _write(files: Files, model: ir.Model, exact: dict[ir.Value, F64], report: Report) -> Conversion | None:
    if not report.folded and files.wanted == NOTHING_ELSE:
        runtime.session(files.source)
        graph.copy(files.source, files.target)
        return None
    unrounded = dict(exact) if files.wanted.precision is not None else {}
    rewrite.round_exact(exact)
    _save(files.source, model, files.folded)
    if files.wanted.precision is None:
        return None
    conversion = precision.convert(model, files.wanted.precision, unrounded)
    _save(files.source, model, files.target)
    return conversion


def _save(source: Path, model: ir.Model, path: Path) -> None:
    try:
        graph.save(model, path, f"{path.name}.data")
    except ir.serde.SerdeError as error:  # a string that is no UTF-8, say, which reading lets through
        raise graph.SourceError(f"{source}: not a valid ONNX graph: {error.__cause__ or error}") from error


def _prove_precision(
    files: Files, conversion: Conversion, tolerance: float | None, samples: Mapping[str, Array] | None
) -> Precision:
    dtype = files.wanted.precision
    assert dtype is not None  # noqa: S101 - there is a conversion
    errors = prove_precision(files.judged, files.target, dtype, tolerance=tolerance, samples=samples)
    figures = conversion.constants, conversion.zeroed, conversion.subnormal, dict(conversion.wide)
    return Precision(dtype.name.lower(), *figures, errors)


@contextmanager
def _sound(source: Path) -> Iterator[None]:
    """Let onnxruntime say what is wrong with a graph that breaks something here, in one line."""
    try:
        yield
    except EXPECTED:
        raise
    except Exception:
        with _naming(source):
            verify.require_runs(source)
        raise


def _proof(narrow: set[str], *, with_samples: bool) -> str:
    less = f", {', '.join(sorted(narrow))} not in float64 but in float32" if narrow else ""
    return f"Judged against float64 on drawn inputs{' and on the samples' if with_samples else ''}{less}"


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
