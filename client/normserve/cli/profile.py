"""`normserve profile`: where a request's time goes."""

import json
from pathlib import Path
from typing import Annotated

import typer

from normserve.cli import arrays, profile_file, profile_server
from normserve.cli.console import (
    DEFAULT_ADDRESS,
    DEFAULT_HTTP_ADDRESS,
    Address,
    HttpAddress,
    InputError,
    Timeout,
    connected,
    http_base,
    out,
)
from normserve.cli.profile_stages import Profile
from normserve.cli.profile_tables import view


def profile(
    model: Annotated[str, typer.Argument(help="The model's name on the server; or an ONNX file, which runs in this process.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=FILE.npy", help="An input; once for each. Zeros where none is given."),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="In each request, where the inputs do not say.")] = 1,
    requests: Annotated[int, typer.Option(metavar="N", min=1, help="How many to measure, one after the other.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON, times in seconds.")] = False,
    version: Annotated[str, typer.Option(help="The model's version; the server's choice if not given.")] = "",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda:N", help="Of a file: where it runs.", show_default="cpu")] = "",
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of a file: threads within an operator.", show_default="one per core")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    http_address: HttpAddress = DEFAULT_HTTP_ADDRESS,
    timeout: Timeout = 60.0,
) -> None:
    """Show where a request's time goes: copy in, kernels, copy out, and the host.

    Requests are sent to a running server, one after the other, and what it counted of them is set against the caller's clock.
    An ONNX file is run in this process, as it is (a server folds it first), and the kernels' time is told by operator.

    [bold]Examples[/bold]

    normserve profile digits

    normserve profile digits --samples 16 --requests 500 --json

    normserve profile models/repository/digits/1/model.onnx --samples 8 --threads 1
    """
    given = arrays.named(inputs or ())
    if Path(model).suffix == ".onnx":
        if version:
            raise InputError("--version is a server's, and an ONNX file was given")
        found = profile_file.measure(
            Path(model), given, samples=samples, requests=requests, device=device or "cpu", threads=threads or 0
        )
    elif device or threads is not None:
        raise InputError(f"--device and --threads are for an ONNX file, and '{model}' is a server's model")
    else:
        asked = profile_server.Asked(model, version, given, samples, requests, timeout)
        with connected(address) as client:
            found = profile_server.measure(client, asked, http_base(http_address, "--http-address"))
    _show(found, as_json=as_json)


def _show(found: Profile, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        out.print(view(found))
