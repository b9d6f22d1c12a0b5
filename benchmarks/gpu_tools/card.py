"""The card that figures are of; and why there is none."""

import os
import platform
import re
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("onnxruntime-gpu", "onnxruntime", "torch", "triton", "numpy", "grpcio", "nvidia-ml-py", "normserve")


class NoCardError(Exception):
    """There is no NVIDIA GPU that can be used; the text says what is missing."""


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Card:
    """Where something ran.

    Attributes:
        name: as the driver has it, or that it was a rehearsal.
        driver: its version; and `cuda`, the newest CUDA that it knows.
        memory_bytes: of the card.
        cores: of the host.
        python: its version.
        packages: versions, by name; those that are not installed are left out.
    """

    name: str
    driver: str = ""
    cuda: str = ""
    memory_bytes: int = 0
    cores: int = field(default_factory=lambda: os.cpu_count() or 0)
    python: str = field(default_factory=platform.python_version)
    packages: dict[str, str] = field(default_factory=_versions)

    @property
    def slug(self) -> str:
        """The name, for a file's."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


REHEARSAL = "rehearsal without a card"


def find() -> Card:
    """Tells of the first NVIDIA GPU, as CUDA counts them.

    Raises:
        NoCardError: no driver, no GPU, or no onnxruntime or torch that can use one.
    """
    import pynvml

    uuid = _require_gpu()
    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        number = pynvml.nvmlSystemGetCudaDriverVersion()
        return Card(
            str(pynvml.nvmlDeviceGetName(handle)),
            str(pynvml.nvmlSystemGetDriverVersion()),
            f"{number // 1000}.{number % 1000 // 10}",
            int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        )
    finally:
        pynvml.nvmlShutdown()


def _require_gpu() -> str:
    """Gives its name for the driver, whose own numbers know nothing of CUDA_VISIBLE_DEVICES."""
    from normserve_server import devices

    if not devices.gpu_count():
        raise NoCardError("this machine shows no NVIDIA GPU")
    try:
        devices.choose("cuda:0")
    except devices.DeviceError as error:
        raise NoCardError(str(error)) from error
    import torch

    if not torch.cuda.is_available():
        raise NoCardError(f"this torch ({torch.__version__}) cannot use the GPU: install one with CUDA")
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"
