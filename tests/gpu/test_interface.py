"""What the service wants of any device: the contract of `accelerators.interface`, by which the fake is held to the card."""

import numpy as np
import pytest
from normserve_server.accelerators.interface import DeviceMemoryError

MEGABYTE = 2**20


def filled(accelerator, values):
    staging = accelerator.staging(values.nbytes)
    staging[:] = values
    return staging


def test_what_is_copied_in_comes_back(accelerator):
    values = np.random.default_rng(0).integers(0, 256, MEGABYTE, np.uint8)
    lane, memory, back = accelerator.lane(), accelerator.memory(MEGABYTE), accelerator.staging(MEGABYTE)
    sent = filled(accelerator, values)
    lane.copy_in(memory, sent)
    lane.copy_out(back, memory)
    lane.record().synchronize()
    np.testing.assert_array_equal(back, values)


def test_a_lane_waits_for_another(accelerator):
    """Out of order the second lane would bring back what was there before."""
    one, other = accelerator.lane(), accelerator.lane()
    memory, back = accelerator.memory(MEGABYTE), accelerator.staging(MEGABYTE)
    for number in range(8):
        sent = filled(accelerator, np.full(MEGABYTE, number, np.uint8))
        one.copy_in(memory, sent)
        other.wait(one.record())
        other.copy_out(back, memory)
        other.record().synchronize()
        assert (back == number).all()


def test_events_tell_how_long_it_took(accelerator):
    lane, memory, sent = accelerator.lane(), accelerator.memory(MEGABYTE), accelerator.staging(MEGABYTE)
    began = lane.record()
    lane.copy_in(memory, sent)
    ended = lane.record()
    ended.synchronize()
    assert 0 < ended.seconds_since(began) < 10


def test_memory_is_taken_and_given_back(accelerator):
    free, total = accelerator.free_and_total_bytes()
    assert 0 < free <= total
    memory = accelerator.memory(64 * MEGABYTE)
    during, _ = accelerator.free_and_total_bytes()
    assert during <= free - 32 * MEGABYTE  # allocators round, and may have had some
    del memory
    accelerator.give_back()
    after, _ = accelerator.free_and_total_bytes()
    assert after > during


def test_what_does_not_fit_is_refused_with_numbers(accelerator):
    _, total = accelerator.free_and_total_bytes()
    with pytest.raises(DeviceMemoryError, match=rf"wanted {2 * total} bytes of memory, \d+ of {total} are free"):
        accelerator.memory(2 * total)
    assert accelerator.broken() is None
