import asyncio
import time

from normserve_server import loop_lag
from prometheus_client import CollectorRegistry, Histogram

HELD_SECONDS = 0.3


async def test_a_loop_that_is_held_is_late() -> None:
    registry = CollectorRegistry()
    watching = asyncio.create_task(loop_lag.watch(Histogram("lag", "of the loop", registry=registry)))
    await asyncio.sleep(0)  # from now on it waits for its timer
    time.sleep(HELD_SECONDS)  # noqa: ASYNC251 - which is what must not happen
    await asyncio.sleep(3 * loop_lag.TICK_SECONDS)  # the timer is due already, and comes first
    watching.cancel()
    late = registry.get_sample_value("lag_sum")
    assert late > HELD_SECONDS - 1.5 * loop_lag.TICK_SECONDS
