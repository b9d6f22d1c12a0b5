"""Where this machine's pip finds packages, told to a pip in a container that shares its network.

Folders of this machine are none of the container's, so they are served over loopback.
"""

import ast
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ABOUT_PLACES = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "default-timeout", "timeout")
INDEXES = ("index-url", "extra-index-url")


@contextmanager
def pip_settings(certificates: str) -> Iterator[str]:
    """A pip.conf, which holds for as long as the `with` lasts.

    Args:
        certificates: the file of whom to trust, in the container.
    """
    with ExitStack() as servers:
        lines = ["[global]", f"cert = {certificates}"]
        for key, value in _configured().items():
            places = [_reachable(place, servers, index=key in INDEXES) for place in value.split()]
            lines.append("\n    ".join([f"{key} =", *places]) if len(places) > 1 else f"{key} = {places[0]}")
        yield "\n".join([*lines, ""])


def _configured() -> dict[str, str]:
    """What pip is told by its files, and over that by the environment."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = dict(line.split("=", 1) for line in listed)
    names = [(section, name) for section in ("global", "install", ":env:") for name in ABOUT_PLACES]
    return {name: ast.literal_eval(found[f"{section}.{name}"]) for section, name in names if f"{section}.{name}" in found}


def _reachable(place: str, servers: ExitStack, *, index: bool) -> str:
    path = Path(unquote(urlsplit(place).path)) if place.startswith("file:") else Path(place)
    if not (path.is_absolute() and path.is_dir()):
        return place
    if index:  # its pages may link to files beside it
        return f"{servers.enter_context(_served(path.parent))}/{path.name}"
    return f"{servers.enter_context(_served(path))}/"


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
