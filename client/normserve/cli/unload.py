"""`normserve unload`: a model out of service."""

from typing import Annotated

import typer

from normserve.cli.console import DEFAULT_ADDRESS, Address, Timeout, connected, out


def unload(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = None,
) -> None:
    """Take a model out of service, on a server that runs with --model-control-mode explicit.

    What it has accepted is answered first.

    [bold]Example[/bold]

    normserve unload digits
    """
    with connected(address) as client:
        client.unload_model(model, timeout=timeout)
    out.print(f"{model} is unloaded", markup=False)
