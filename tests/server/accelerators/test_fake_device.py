"""The fake is late enough to find a wait that is missing, and otherwise right."""

import numpy as np
import pytest
from fake_device import FakeAccelerator
from normserve_server.accelerators.interface import DeviceMemoryError


def doubled_on_lanes(device, *, waits):
    """Sends four numbers in on one lane, doubles them on a second, and fetches them on a third."""
    there, compute, back = device.lane(), device.lane(), device.lane()
    x, y = device.staging(4), device.staging(4)
    x[:] = [1, 2, 3, 4]
    memory = device.memory(4)
    there.copy_in(memory, x)
    if waits:
        compute.wait(there.record())
    cells = memory.owner.array
    compute.run(lambda: np.multiply(cells, 2, out=cells))
    if waits:
        back.wait(compute.record())
    back.copy_out(y, memory)
    back.record().synchronize()
    return y.tolist()


def test_with_all_waits_it_computes() -> None:
    assert doubled_on_lanes(FakeAccelerator(), waits=True) == [2, 4, 6, 8]


def test_without_waits_it_computes_something_else() -> None:
    assert doubled_on_lanes(FakeAccelerator(), waits=False) == [255] * 4


def test_what_a_run_writes_is_not_there_for_a_lane_that_does_not_wait_for_it() -> None:
    device = FakeAccelerator()
    compute, back = device.lane(), device.lane()
    memory, early, late = device.memory(1), device.staging(1), device.staging(1)
    compute.run(lambda: memory.owner.array.fill(7))
    back.copy_out(early, memory)
    back.wait(compute.record())
    back.copy_out(late, memory)
    back.record().synchronize()
    assert (early.tolist(), late.tolist()) == ([255], [7])


def test_what_nobody_waits_for_has_not_happened() -> None:
    device = FakeAccelerator()
    lane, out, memory = device.lane(), device.staging(1), device.memory(1)
    sent = np.array([7], np.uint8)
    lane.copy_in(memory, sent)
    lane.copy_out(out, memory)
    event = lane.record()
    assert out.tolist() == [255]
    sent[:] = 8  # too early: it is still to be read
    event.synchronize()
    assert out.tolist() == [8]


def test_it_has_so_much_memory_and_keeps_what_is_freed() -> None:
    device = FakeAccelerator(total_bytes=100)
    held = device.memory(60)
    with pytest.raises(DeviceMemoryError, match="cuda:0: wanted 60 bytes of memory, 40 of 100 are free"):
        device.memory(60)
    del held
    assert device.free_and_total_bytes() == (40, 100)
    device.give_back()
    assert device.free_and_total_bytes() == (100, 100)


def test_broken_it_does_nothing_more() -> None:
    device = FakeAccelerator()
    lane = device.lane()
    device.broken_by = "an illegal memory access was encountered"
    for order in (lambda: lane.run(lambda: None), lane.record, lambda: device.memory(1)):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            order()
    assert device.broken() == device.broken_by
