"""The accelerators of this process: each device is opened once, when it is first wanted."""

import threading
from collections.abc import Callable

import structlog

from normserve_server.accelerators.host import Host
from normserve_server.accelerators.interface import Accelerator
from normserve_server.devices import CPU, Device

_log = structlog.get_logger(__name__)


def open_one(device: Device) -> Accelerator:
    """Opens a device.

    Raises:
        LoadError: it is a GPU that torch cannot use.
    """
    if device.provider == CPU:
        return Host()
    from normserve_server.accelerators.cuda import Cuda  # noqa: PLC0415 - it imports torch and takes GPU memory

    return Cuda(device)


class Accelerators:
    """Opens devices when they are wanted; any thread may ask.

    Args:
        open_one: opens a device.
    """

    def __init__(self, open_one: Callable[[Device], Accelerator] = open_one) -> None:
        self._open_one = open_one
        self._opened: dict[Device, Accelerator] = {}
        self._lock = threading.Lock()

    def of(self, device: Device) -> Accelerator:
        """Gives a device's accelerator.

        Raises:
            LoadError: it cannot be used.
        """
        with self._lock:
            if device not in self._opened:
                self._opened[device] = self._open_one(device)
            return self._opened[device]

    def give_back(self) -> None:
        """Has all return the memory that they keep to the system; one that is broken cannot, and holds up nobody."""
        for accelerator in list(self._opened.values()):
            try:
                accelerator.give_back()
            except Exception as error:  # noqa: BLE001 - a driver's may be any
                _log.warning("device gives no memory back", device=str(accelerator.device), reason=str(error))
