"""`normserve top`: what a server does, live."""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.live import Live

from normserve.cli.console import DEFAULT_HTTP_ADDRESS, HttpAddress, InputError, Timeout, http_base, out
from normserve.cli.top_tables import trouble, view
from normserve.errors import NormserveError, UnavailableError

WINDOWS = (1, 5, 15, 60)


def top(
    address: HttpAddress = DEFAULT_HTTP_ADDRESS,
    minutes: Annotated[int, typer.Option(metavar="1|5|15|60", help="The window: the last so many minutes.")] = 5,
    model: Annotated[str, typer.Option(metavar="NAME/VERSION", help="Only calls of this version.", show_default=False)] = "",
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, help="Time between two updates.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once; so it is where the output is no terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it once, as the server's JSON.")] = False,
    timeout: Timeout = 10.0,
) -> None:
    """Show what a server does: requests, errors, latency by phase, batches, models, GPUs. Ctrl-C ends it.

    These are the numbers of the server's page, from its HTTP port; docs/operations.md has the JSON's fields.

    [bold]Examples[/bold]

    normserve top

    normserve top --address http://gpu-1:8002 --minutes 15 --model digits/1

    normserve top --once

    normserve top --json | jq .total.latency_seconds.request.p99
    """
    if minutes not in WINDOWS:
        raise InputError(f"--minutes: wanted 1, 5, 15 or 60, got {minutes}")
    base = http_base(address, "--address")
    url = f"{base}/api/overview?{urllib.parse.urlencode({'minutes': minutes, 'model': model})}"
    overview = _fetch(url, timeout)
    if as_json:
        typer.echo(json.dumps(overview))
    elif once or not out.is_terminal:
        out.print(view(overview, base))
    else:
        _follow(overview, base, interval, lambda: _fetch(url, timeout))


def _follow(overview: Any, base: str, interval: float, fetch: Callable[[], Any]) -> None:
    """Shows it again and again; where nobody answers, or the version has gone, the last one and why."""
    with Live(console=out, screen=True, auto_refresh=False) as live:
        try:
            problem = ""
            while True:
                live.update(trouble(view(overview, base), problem), refresh=True)
                time.sleep(interval)
                try:
                    overview, problem = fetch(), ""
                except (NormserveError, InputError) as error:
                    problem = str(error)
        except KeyboardInterrupt:
            return


def _fetch(url: str, timeout: float | None) -> Any:
    """Asks the server.

    Raises:
        UnavailableError: nobody answers, or no server of ours.
        InputError: it does not have the model.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as gRPC's calls, not by way of a proxy
    try:
        with opener.open(url, timeout=timeout) as answer:
            overview = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(4096).decode(errors="replace").strip()
        if text.startswith("model:"):
            raise InputError(f"--{text}") from None
        raise UnavailableError(f"{url}: {error.code}: its server has no page, or is none of ours") from None
    except (http.client.HTTPException, ValueError):
        raise UnavailableError(f"{url}: the answer is not HTTP and JSON; is it the server's HTTP port?") from None
    except OSError as error:
        raise UnavailableError(f"{url}: {getattr(error, 'reason', error)}") from None
    if not isinstance(overview, dict) or "total" not in overview:
        raise UnavailableError(f"{url}: the answer is none of a normserve server's")
    return overview
