"""`normserve load`: a model into service, or what has changed of it."""

from pathlib import Path
from typing import Annotated

import typer

from normserve.cli.console import DEFAULT_ADDRESS, Address, InputError, Timeout, connected, out


def load(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="A ModelConfig that replaces the model's config.pbtxt.")
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="VERSION/NAME=FILE", help="A file to send; together they replace the model's folder."),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = None,
) -> None:
    """Load a model, or what has changed of it, on a server that runs with --model-control-mode explicit.

    It is answered when the model serves. A version that does not load leaves the one that serves as it is.

    [bold]Examples[/bold]

    normserve load digits

    normserve load digits --config config.json

    normserve load digits --config config.json --file 3/model.onnx=digits.onnx --timeout 120
    """
    text = None if config is None else _read(config, "--config").decode(errors="replace")
    contents = dict(_named(file) for file in files or ())
    if len(contents) < len(files or ()):
        raise InputError(f"--file: one is given twice: {', '.join(files or ())}")
    if contents and text is None:
        raise InputError("--file: needs --config beside it")
    with connected(address) as client:
        client.load_model(model, config=text, files=contents, timeout=timeout)
    out.print(f"{model} serves", markup=False)


def _named(text: str) -> tuple[str, bytes]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f"--file: wanted VERSION/NAME=FILE, got {text!r}")
    return name, _read(Path(path), "--file")


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{option}: {path}: {error.strerror}") from error
