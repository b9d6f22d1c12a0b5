"""`normserve models`: what a server has."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from normserve.cli.console import DEFAULT_ADDRESS, Address, InputError, Timeout, connected, out
from normserve.client import Client
from normserve.results import ModelIndex, ModelMetadata, TensorMetadata

_COLOURS = {"READY": "green", "LOADING": "yellow", "UNLOADING": "yellow", "UNAVAILABLE": "red"}


def models(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these.", show_default=False)] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = None,
) -> None:
    """List a server's models: version, state, inputs, outputs and properties.

    [bold]Examples[/bold]

    normserve models

    normserve models digits --address gpu-1:8001
    """
    with connected(address) as client:
        index = client.models(timeout=timeout)
        missing = sorted(set(names or ()) - {entry.name for entry in index})
        if missing:
            raise InputError(f"{address} has no model {', '.join(missing)}")
        chosen = [entry for entry in index if not names or entry.name in names]
        out.print(_table(client, chosen, timeout))


def _table(client: Client, index: Sequence[ModelIndex], timeout: float | None) -> Table:
    table = Table("model", "version", "state", "inputs", "outputs", "properties", show_lines=True)
    for column in table.columns:
        column.overflow = "fold"  # nothing is cut off: a reason may be long
    for entry in index:
        colour = _COLOURS.get(entry.state, "white")
        state = f"[{colour}]{escape(entry.state)}[/{colour}]"
        if entry.state == "READY":
            described = _described(client.metadata(entry.name, entry.version, timeout=timeout))
        else:
            described = ("", "", escape(entry.reason))
        table.add_row(escape(entry.name), escape(entry.version), state, *described)
    return table


def _described(metadata: ModelMetadata) -> tuple[str, str, str]:
    properties = "\n".join(f"{key}: {value}" for key, value in sorted(metadata.properties.items()))
    return _tensors(metadata.inputs), _tensors(metadata.outputs), escape(properties)


def _tensors(described: Sequence[TensorMetadata]) -> str:
    return escape("\n".join(f"{t.name} {t.datatype}[{','.join(map(str, t.shape))}]" for t in described))
