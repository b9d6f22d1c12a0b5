"""`normserve fold`: merge the batch norms of an ONNX file into the weights beside them, and prove it."""

import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from normserve.cli import fold_report, input_normalization
from normserve.cli.console import InputError, fail, needs_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import onnx_ir as ir
    from normserve_models.explain import Described
    from normserve_models.prepare import Wanted
    from normserve_models.report import Report

PATIENCE_SECONDS = 1.0  # what is done sooner needs no progress bar


def fold(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model as it was exported.")],
    target: Annotated[
        Path | None, typer.Argument(metavar="OUT.onnx", help="Where to write; replaced where it is there.", show_default=False)
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the whole story as JSON.")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="X", min=0, help="The largest relative error allowed, in place of the default bound."),
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Prove on these inputs too: an array an input, by name.")
    ] = None,
    measure: Annotated[bool, typer.Option(help="Time a run before and after, for about a second.")] = True,
    normalization: input_normalization.Texts = None,
    input_dtype: input_normalization.Dtype = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="Round once to float16 or bfloat16, with a proof of its own."),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="NODE",
            help="Tell all about one batch norm: its node, output or scale. OUT.onnx may be left out.",
        ),
    ] = None,
) -> None:
    """Fold the batch norms of an ONNX file into the weights beside them.

    The result is judged against float64, on drawn inputs and on your samples, before anything is written: it may be
    off by 1e-6 or by twice what the unfolded file is off, whichever is more (for float32). A batch norm that cannot be
    folded exactly stays, and the table says why. Exit code 1: the proof failed; 2: the input is no good.

    [bold]Examples[/bold]

    normserve fold model.onnx folded.onnx

    normserve fold model.onnx folded.onnx --report report.json --samples images.npz

    normserve fold model.onnx small.onnx --precision float16 --input-dtype uint8
    --input-normalization 'mean=123.675,116.28,103.53 std=58.395,57.12,57.375'

    normserve fold model.onnx --explain layer1.0.bn2
    """
    if target is None:
        _require_dry_run(explain, {"--report": report, "--tolerance": tolerance, "--samples": samples})
    with needs_extra("models"):
        from normserve_models import atomic, graph, memory, prepare
        from normserve_models import explain as explanations
        from normserve_models.prepare import Wanted
    memory.settle()
    asked: list[Described] = []
    with _errors_told(source):
        wanted = Wanted(input_normalization.asked(normalization, input_dtype), _precision(precision))
        if explain is not None:  # before anything is written, for the name may be wrong
            result = prepare.plan(source, wanted)
            asked = explanations.find(graph.load(source), result.norms, explain)
        with nullcontext() if report is None else atomic.new_file(report) as story:
            if target is not None:
                result = _fold_file(source, target, tolerance, samples, measure, wanted)
            if story is not None:
                story.write_text(result.to_json())
    for described in asked:
        fold_report.tell(described, result)
    if not asked:
        fold_report.show(result)


def _require_dry_run(explain: str | None, idle: "Mapping[str, object]") -> None:
    if explain is None:
        raise InputError("OUT.onnx is missing: wanted normserve fold IN.onnx OUT.onnx; only with --explain may it be left out")
    for option, value in idle.items():
        if value is not None:
            raise InputError(f"{option} needs OUT.onnx: without it nothing is proved")


@contextmanager
def _errors_told(source: Path) -> "Iterator[None]":
    """Turns the errors of a fold into one line and an exit code."""
    from normserve_models import prepare
    from normserve_models.explain import UnknownNormError

    try:
        yield
    except prepare.WRONG as error:
        fail(f"{source}: {error}", 1)
    except UnknownNormError as error:
        raise InputError(f"{source}: {error}") from error
    except prepare.BAD_INPUT as error:
        raise InputError(str(error)) from error


def _precision(text: str | None) -> "ir.DataType | None":
    import onnx_ir as ir

    known = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
    if text is not None and text not in known:
        raise InputError(f"--precision: wanted float16 or bfloat16, got {text!r}")
    return None if text is None else known[text]


def _fold_file(
    source: Path, target: Path, tolerance: float | None, samples: Path | None, measure: bool, wanted: "Wanted"
) -> "Report":
    from normserve_models import atomic, draw, prepare

    batch = None if samples is None else draw.read_samples(samples)
    with atomic.new_file(target) as temporary, _progress() as progress:
        return prepare.fold_file(
            source, temporary, wanted, tolerance=tolerance, samples=batch, progress=progress, measure=measure
        )


@contextmanager
def _progress() -> "Iterator[Callable[[float], None]]":
    """Give what is told the share done; a bar appears on standard error once that has taken a while."""
    started = time.monotonic()
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task("proving", total=1.0)

    def update(share: float) -> None:
        bar.update(task, completed=share)
        if time.monotonic() - started > PATIENCE_SECONDS:
            bar.start()

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()
