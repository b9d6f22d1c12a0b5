import asyncio

import pytest
from normserve_server.admission import Admission
from normserve_server.errors import OverloadedError, TooLargeError


async def test_bytes_in_flight_are_limited() -> None:
    admission = Admission(10)
    admission.enter(6)
    with pytest.raises(OverloadedError, match="message of 5 bytes beside 6 in flight, the server admits 10") as refusal:
        admission.enter(5)
    assert refusal.value.retry_after_ms > 0
    admission.enter(4)
    admission.leave(6)
    admission.enter(5)
    assert (admission.calls, admission.bytes) == (2, 9)


async def test_a_message_that_never_fits_is_not_told_to_come_back() -> None:
    with pytest.raises(TooLargeError, match="message of 11 bytes, the server admits 10"):
        Admission(10).enter(11)


async def test_idle_waits_for_the_last_one() -> None:
    admission = Admission(10)
    await asyncio.wait_for(admission.idle(), 1)
    admission.enter(1)
    admission.enter(1)
    waiting = asyncio.create_task(admission.idle())
    admission.leave(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    admission.leave(1)
    await asyncio.wait_for(waiting, 1)
