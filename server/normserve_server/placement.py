"""Where a model's instances run, and with how many threads: an instance_group on this machine."""

from collections.abc import Sequence

from normserve_server import devices
from normserve_server.devices import CPU, CUDA, Device
from normserve_server.machine import cores
from normserve_server.model_config import InstanceGroup
from normserve_server.session import LoadError


def place(groups: Sequence[InstanceGroup], default: Device) -> list[Device]:
    """Gives the device of each instance.

    Args:
        groups: at least one.
        default: the server's device, where "auto" instances run.

    Raises:
        LoadError: a group wants a GPU that is not there.
    """
    return [device for group in groups for device in on(group, default) for _ in range(group.count)]


def on(group: InstanceGroup, default: Device) -> list[Device]:
    """Gives the devices of a group, each of which has its count of instances.

    Args:
        group: the group; of kind "gpu" without numbers, it is on all GPUs.
        default: the server's device.

    Raises:
        LoadError: it wants a GPU that is not there.
    """
    if group.kind == "cpu":
        return [Device(CPU)]
    if group.kind == "auto" and not group.gpus:
        return [default]
    if default.provider != CUDA:
        raise LoadError(f"instance_group wants a GPU, the server runs on {default}")
    shown = devices.gpu_count()
    missing = [number for number in group.gpus if number >= shown]
    if missing:
        raise LoadError(f"instance_group wants GPU {missing[0]}, this machine shows {shown}")
    return [Device(CUDA, number) for number in group.gpus or range(shown)]


def threads(given: int, instances: int) -> int:
    """How many threads an operator may use, so that all instances together do not ask for more than the cores there are.

    Args:
        given: what was configured; 0 for nothing.
        instances: how many run on the CPU, > 0.

    Returns:
        The number; 0, which is onnxruntime's word for one per core, where one instance may have them all.
    """
    return given or (0 if instances == 1 else max(1, cores() // instances))
