"""`normserve serve`: the server, whose flags are its own."""

import os
import sys
from typing import Any

import typer

from normserve.cli.console import needs_extra

# All arguments, --help too, go through as they are: the server declares its settings once, and not here.
SETTINGS: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}


def serve(context: typer.Context) -> None:
    """Serve a repository of models. `normserve serve --help` has the flags.

    [bold]Example[/bold]

    normserve serve --repository models/repository --device auto
    """
    with needs_extra("server"):
        import normserve_server.__main__  # noqa: F401 - to find out whether the server is installed
    # The server takes this process's place: it sets gRPC up before it loads it, and the command line has it loaded.
    os.execv(sys.executable, [sys.executable, "-m", "normserve_server", *context.args])  # noqa: S606 - no shell is wanted
