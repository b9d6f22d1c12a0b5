"""The host, and how devices are opened."""

import numpy as np
import pytest
import torch
from normserve_server.accelerators.host import Host
from normserve_server.accelerators.opened import Accelerators, open_one
from normserve_server.accelerators.tuning import Tuning
from normserve_server.devices import CPU, CUDA, Device
from normserve_server.errors import LoadError


def test_the_host_copies_at_once_and_is_never_behind() -> None:
    host = Host()
    lane, memory, back = host.lane(), host.memory(8), host.staging(8)
    began = lane.record()
    lane.copy_in(memory, np.array([1, 2], np.int32))
    lane.run(lambda: memory.owner.__iadd__(1))
    lane.copy_out(back, memory)
    lane.wait(began)
    ended = lane.record()
    ended.synchronize()
    assert back.view(np.int32).tolist() == [0x01010102, 0x01010103]
    assert ended.seconds_since(began) >= 0
    assert host.providers(Tuning(), lane) == [CPU]
    free, total = host.free_and_total_bytes()
    assert 0 < free <= total
    assert host.broken() is None


def test_each_device_is_opened_once() -> None:
    opened = []

    def open_host(device):
        opened.append(device)
        return Host()

    accelerators = Accelerators(open_host)
    first = accelerators.of(Device(CPU))
    assert accelerators.of(Device(CPU)) is first
    assert accelerators.of(Device(CUDA, 1)) is not first
    assert opened == [Device(CPU), Device(CUDA, 1)]


def test_a_device_that_is_broken_keeps_no_other_from_giving_memory_back() -> None:
    given = []

    class Broken(Host):
        def give_back(self):
            raise RuntimeError("an illegal memory access was encountered")

    class Sound(Host):
        def give_back(self):
            given.append(self)

    accelerators = Accelerators(lambda device: Sound() if device.index else Broken())
    devices = [accelerators.of(Device(CUDA, index)) for index in (0, 1)]
    accelerators.give_back()
    assert given == devices[1:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_torch_cannot_use_is_said_so() -> None:
    with pytest.raises(LoadError, match=r"cuda:0: this torch \(.+\) cannot use a GPU"):
        open_one(Device(CUDA))
