"""What the commands share: options, errors and the terminal."""

import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from normserve.client import Client
from normserve.errors import NormserveError

DEFAULT_ADDRESS = "127.0.0.1:8001"
DEFAULT_HTTP_ADDRESS = "http://127.0.0.1:8002"

Address = Annotated[str, typer.Option(metavar="HOST:PORT", envvar="NORMSERVE_ADDRESS", help="The server's gRPC address.")]
HttpAddress = Annotated[
    str,
    typer.Option(metavar="URL", envvar="NORMSERVE_HTTP_ADDRESS", help="The server's HTTP address; http:// may be left out."),
]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Give up after that long.")]

out = Console(highlight=False)


class InputError(Exception):
    """What the user gave cannot be worked with; the text says what and why."""


def fail(message: str, code: int) -> NoReturn:
    """Ends the process with one line on standard error."""
    sys.stderr.write(f"normserve: {' '.join(message.split())}\n")
    sys.exit(code)


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """Opens a client for one command; an error that comes from no server names the address."""
    with Client(address) as client:
        try:
            yield client
        except NormserveError as error:
            error.message = f"{address}: {error.message}"
            raise


def http_base(address: str, option: str) -> str:
    """Reads the HTTP address that an option gave: `http://host:port`, without a slash at the end.

    Raises:
        InputError: it is none.
    """
    parts = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InputError(f"{option}: wanted http://HOST:PORT, got '{address}'")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turns the absence of an optional dependency into the command that brings it.

    Raises:
        InputError: an import inside failed for want of a package that is not ours.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("normserve"):
            raise
        raise InputError(f"this needs the package {error.name!r}: pip install 'normserve[{extra}]'") from error
