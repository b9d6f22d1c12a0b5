"""Where instances run, on a machine that shows four GPUs."""

import pytest
from normserve_server import devices
from normserve_server.devices import CPU, CUDA, Device
from normserve_server.errors import LoadError
from normserve_server.model_config import InstanceGroup
from normserve_server.placement import place


@pytest.fixture(autouse=True)
def _four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpu_count", lambda: 4)


@pytest.mark.parametrize(
    ("groups", "placed"),
    [
        ([InstanceGroup()], ["cuda:1"]),
        ([InstanceGroup(2)], ["cuda:1", "cuda:1"]),
        ([InstanceGroup(2, "gpu", (0, 3))], ["cuda:0", "cuda:0", "cuda:3", "cuda:3"]),
        ([InstanceGroup(1, "auto", (2, 0))], ["cuda:2", "cuda:0"]),
        ([InstanceGroup(1, "gpu")], ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ([InstanceGroup(1, "gpu", (3,)), InstanceGroup(2, "cpu")], ["cuda:3", "cpu", "cpu"]),
    ],
)
def test_instances_are_on_the_devices_that_their_group_names(groups: list[InstanceGroup], placed: list[str]) -> None:
    assert [str(device) for device in place(groups, Device(CUDA, 1))] == placed


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LoadError, match="instance_group wants GPU 4, this machine shows 4"):
        place([InstanceGroup(1, "gpu", (0, 4))], Device(CUDA))
    with pytest.raises(LoadError, match="instance_group wants a GPU, the server runs on cpu"):
        place([InstanceGroup(1, "gpu")], Device(CPU))
