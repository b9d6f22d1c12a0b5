import asyncio

import pytest
from normserve_server.admission import Admission
from normserve_server.errors import OverloadedError, TooLargeError, UnavailableError


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


async def test_answers_count_until_they_are_taken() -> None:
    admission = Admission(10)
    admission.enter(1)
    admission.hold(20)  # more than the limit, and there is nothing to refuse any more
    assert admission.bytes == 21
    with pytest.raises(OverloadedError, match="beside 21 in flight"):
        admission.enter(1)
    admission.leave(21)
    admission.enter(10)


async def test_a_message_that_never_fits_is_not_told_to_come_back() -> None:
    with pytest.raises(TooLargeError, match="message of 11 bytes, the server admits 10"):
        Admission(10).enter(11)


async def test_draining_waits_for_the_last_one_and_refuses_new_ones() -> None:
    admission = Admission(10)
    admission.enter(1)
    admission.enter(1)
    draining = asyncio.create_task(admission.drain())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="draining"):
        admission.enter(1)
    admission.leave(1)
    await asyncio.sleep(0)
    assert not draining.done()
    admission.leave(1)
    await asyncio.wait_for(draining, 1)


async def test_quiet_is_when_callers_no_longer_come() -> None:
    admission = Admission(10)
    await admission.drain()
    quiet = asyncio.create_task(admission.quiet(0.2))
    for _ in range(10):
        await asyncio.sleep(0.05)
        with pytest.raises(UnavailableError):
            admission.enter(1)
    assert not quiet.done()
    await asyncio.wait_for(quiet, 5)
