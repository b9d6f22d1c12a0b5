"""What a process alone has beside its gRPC server."""

import threading
from pathlib import Path

import aiohttp
from normserve_server.settings import Settings
from normserve_server.side import Alone
from normserve_server.state import State
from prometheus_client import CollectorRegistry


async def test_the_state_is_asked_for_on_the_loop_and_shown_by_the_metrics(tmp_path: Path) -> None:
    """Metrics are written out on another thread, which must not touch what the loop is changing."""
    threads = set()

    def look() -> State:
        threads.add(threading.get_ident())
        return State(ready=True, calls=7, size=70)

    side = Alone(Settings(repository=(tmp_path,), http_port=0), CollectorRegistry(), "0")
    addresses = await side.start(look, lambda: ())
    async with aiohttp.ClientSession() as session, session.get(f"{addresses['http']}/metrics") as answer:
        text = await answer.text()
    await side.stop()
    assert threads == {threading.get_ident()}
    assert "normserve_requests_in_flight 7.0" in text
    assert "normserve_admitted_bytes 70.0" in text
