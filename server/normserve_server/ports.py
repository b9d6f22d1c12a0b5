"""Ports to listen on: the system is asked before gRPC and aiohttp ask it, whose own answers are lines of log and a trace."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager


class StartError(Exception):
    """The service cannot start; the text says why."""


def check_free(name: str, host: str, port: int) -> None:
    """Finds out whether a port can be listened on.

    Args:
        name: of what will listen, for the error's text.
        host: an address of this machine, or a name of one.
        port: 0 for any.

    Raises:
        StartError: it cannot; the text has the system's reason.
    """
    with _listening(name, host, port):
        pass


def reserve(name: str, host: str, port: int) -> socket.socket:
    """Takes a port for several processes that will share it by SO_REUSEPORT.

    Args:
        name: of what will listen, for the error's text.
        host: an address of this machine, or a name of one.
        port: 0 for any.

    Returns:
        A socket that has the port and does not listen. While it is open nobody who does not share can have the port.

    Raises:
        StartError: somebody has the port.
    """
    with _listening(name, host, port) as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # only now: as long as it was not set, nobody could share
        reserved = socket.socket(alone.family)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            reserved.setsockopt(socket.SOL_SOCKET, option, 1)
        reserved.bind(alone.getsockname())
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # or whoever sets it, and not SO_REUSEPORT, could listen
    return reserved


def joined(host: str, port: int) -> str:
    """Writes an address the way URLs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def _listening(name: str, host: str, port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise StartError(f"{name} port {port} on {host}: {_system_words(error)}") from None
    with listener:
        yield listener


def _system_words(error: OSError) -> str:
    """What the system says; Python adds the address to it, which is there already. Resolvers have negative numbers."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
