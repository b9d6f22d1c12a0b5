"""`normserve fold`: merge the batch norms of an ONNX file into the weights beside them, and prove it."""

import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from normserve.cli.console import InputError, fail, needs_extra, out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from normserve_models.report import Report

PATIENCE_SECONDS = 1.0  # what is done sooner needs no progress bar


def fold(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model as it was exported.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="Where to write; replaced where it is there.")],
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the whole story as JSON.")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="X", min=0, help="The largest relative error allowed, in place of the default bound."),
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Prove on these inputs too: an array an input, by name.")
    ] = None,
) -> None:
    """Fold the batch norms of an ONNX file into the weights beside them.

    The result is judged against float64, on drawn inputs and on your samples, before anything is written: it may be
    off by 1e-6 or by twice what the unfolded file is off, whichever is more (for float32). A batch norm that cannot be
    folded exactly stays, and the table says why. Exit code 1: the proof failed; 2: the input is no good.

    [bold]Examples[/bold]

    normserve fold model.onnx folded.onnx

    normserve fold model.onnx folded.onnx --report report.json --samples images.npz
    """
    with needs_extra("models"):
        from normserve_models import atomic, draw, prepare
    try:
        batch = None if samples is None else draw.read_samples(samples)
        with atomic.new_file(target) as model, nullcontext() if report is None else atomic.new_file(report) as story:
            with _progress() as progress:
                result = prepare.fold_file(source, model, tolerance=tolerance, samples=batch, progress=progress)
            if story is not None:
                story.write_text(result.to_json())
    except prepare.WRONG as error:
        fail(f"{source}: {error}", 1)
    except prepare.BAD_INPUT as error:
        raise InputError(str(error)) from error
    _show(result)


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


def _show(result: "Report") -> None:
    if result.norms:
        out.print(_norms(result))
    if result.errors:
        out.print(_errors(result))
    took = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in result.seconds.items())
    out.print(f"{result.folded} of {len(result.norms)} batch norms folded. {result.proof}. {took}")


def _norms(result: "Report") -> Table:
    table = Table("batch norm", "its scale", "folded into, or why it stays")
    for norm in result.norms:
        fate = ", ".join(norm.into) if norm.folded else f"{norm.reason}: {norm.detail}"
        table.add_row(*map(escape, (norm.name, norm.scale, fate)))
    for column in table.columns:
        column.overflow = "fold"
    return table


def _errors(result: "Report") -> Table:
    table = Table("output", "error folded", "error unfolded", "bound")
    for error in result.errors:
        table.add_row(escape(error.name), *map(_figure, (error.folded, error.unfolded, error.bound)))
    return table


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2e}"
