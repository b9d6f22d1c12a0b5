"""Which device a session runs on: what was asked for, and what the machine has."""

import itertools
import os
from dataclasses import dataclass

import onnxruntime as ort
import pynvml

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


class DeviceError(ValueError):
    """A device that was asked for and is not there."""


@dataclass(frozen=True, slots=True)
class Device:
    """A place to run sessions.

    Attributes:
        provider: onnxruntime's execution provider.
        index: the GPU's number; 0 on the CPU.
    """

    provider: str
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.provider == CPU else f"cuda:{self.index}"


def gpu_count() -> int:
    """How many NVIDIA GPUs CUDA will show: those of the driver, less what CUDA_VISIBLE_DEVICES hides; 0 without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return _driver_count()
    # CUDA stops reading at the first entry that is no device.
    named = list(itertools.takewhile(lambda entry: entry not in {"", "-1"}, (part.strip() for part in visible.split(","))))
    return min(len(named), _driver_count())


def _driver_count() -> int:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def choose(name: str) -> Device:
    """Picks a device by its name.

    Args:
        name: "cpu", "cuda:N", "cuda" for the first GPU, or "auto": the first GPU where there is one, else the CPU.

    Raises:
        DeviceError: the name is none of these, or there is no such GPU or no onnxruntime that can use it.
    """
    if name == "cpu":
        return Device(CPU)
    kind, _, number = name.partition(":")
    if kind == "auto" and not number:
        return Device(CUDA) if gpu_count() and CUDA in ort.get_available_providers() else Device(CPU)
    if kind != "cuda" or (number and not (number.isascii() and number.isdecimal())):
        raise DeviceError(f"device is auto, cpu or cuda:N, got '{name}'")
    index = int(number or 0)
    if CUDA not in ort.get_available_providers():
        raise DeviceError(f"device {name}: this onnxruntime has no {CUDA}; install onnxruntime-gpu")
    if index >= gpu_count():
        raise DeviceError(f"device {name}: this machine shows {gpu_count()} NVIDIA GPUs")
    return Device(CUDA, index)
