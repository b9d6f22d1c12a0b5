"""How late the event loop is: the time by which a timer is called after it was due, ten times a second."""

import asyncio

from prometheus_client import Histogram

from normserve_server.calls import now

TICK_SECONDS = 0.1


async def watch(lag: Histogram) -> None:
    """Measures for ever.

    Args:
        lag: where each measurement is recorded, in seconds.
    """
    while True:
        due = now() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        lag.observe(max(now() - due, 0.0))
