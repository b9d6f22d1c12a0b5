"""`normserve infer`: run a model on arrays from files."""

import json
from pathlib import Path
from typing import Annotated

import typer
from normserve_proto import tensors
from normserve_proto.tensors import Array
from rich.table import Table

from normserve.cli import arrays
from normserve.cli.console import DEFAULT_ADDRESS, Address, InputError, Timeout, connected, out


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    inputs: Annotated[list[str], typer.Option("--input", "-i", metavar="NAME=FILE.npy", help="An input; once for each.")],
    address: Address = DEFAULT_ADDRESS,
    version: Annotated[str, typer.Option(help="The model's version; the server's choice if not given.")] = "",
    output_dir: Annotated[Path | None, typer.Option(help="Write each output to NAME.npy in this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outputs whole, as JSON.")] = False,
    timeout: Timeout = None,
) -> None:
    """Run a model on arrays from .npy files.

    [bold]Examples[/bold]

    normserve infer digits --input image=image.npy

    normserve infer digits --input image=image.npy --json | jq .logits.data

    normserve infer digits --input image=image.npy --output-dir answers --timeout 2
    """
    given = arrays.named(inputs)
    with connected(address) as client:
        outputs = client.infer(model, given, version=version, timeout=timeout)
    if output_dir is not None:
        _write(output_dir, outputs)
    if as_json:
        typer.echo(json.dumps({name: arrays.described(array) for name, array in outputs.items()}))
    else:
        out.print(_table(outputs))


def _write(folder: Path, outputs: dict[str, Array]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output-dir: {error}") from error
    for name, array in outputs.items():
        arrays.save(folder / f"{Path(name).name}.npy", array)


def _table(outputs: dict[str, Array]) -> Table:
    table = Table("output", "datatype", "shape", "elements")
    for name, array in outputs.items():
        table.add_row(name, tensors.datatype_of(array), str(list(array.shape)), arrays.summary(array))
    return table
