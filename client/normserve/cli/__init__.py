"""The command line: `normserve COMMAND`.

Exit codes: 0 done, 1 the server said no or nobody answered, 2 wrong usage or input.
"""

from typing import Annotated

import typer

from normserve import __version__
from normserve.cli import demo, export, fold, infer, load, models, normalize, normalizers, profile, serve, top, unload
from normserve.cli.console import InputError, fail
from normserve.errors import NormserveError

app = typer.Typer(
    name="normserve",
    help="Serve neural networks whose batch norm has been folded away, and call them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command()(infer.infer)
app.command()(normalize.normalize)
app.add_typer(normalizers.app, name="normalizers")
app.command()(models.models)
app.command()(top.top)
app.command()(profile.profile)
app.command()(load.load)
app.command()(unload.unload)
app.command(**serve.SETTINGS)(serve.serve)
app.command()(demo.demo)
app.command()(fold.fold)
app.command()(export.export)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"normserve {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Serve neural networks whose batch norm has been folded away, and call them."""


def main() -> None:
    """Runs the command line; whatever goes wrong is one line on standard error and an exit code."""
    try:
        app()
    except NormserveError as error:
        fail(f"{error.code.name}: {error.message}", 1)
    except InputError as error:
        fail(str(error), 2)
