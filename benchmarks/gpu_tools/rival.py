"""The same network under torch.compile, which searches for minutes: a process of its own, that is ended when its time is over.

rival.py NETWORK BATCH DEVICE MODE SECONDS     # prints samples a second; MODE is torch.compile's, or eager
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu_tools import networks


class RivalError(Exception):
    """There is no figure; the text says why."""


def samples_per_second(network: str, batch: int, device: str, mode: str, *, seconds: float, limit: float) -> float:
    """Measures in a process of its own.

    Args:
        network: a function of `networks`.
        batch: size of the batches.
        device: torch's name of it.
        mode: of torch.compile; or eager, for none.
        seconds: how long to measure.
        limit: how long all of it may take, in seconds.

    Raises:
        RivalError: it failed, or was not done in time.
    """
    command = [sys.executable, "-m", "gpu_tools.rival", network, str(batch), device, mode, str(seconds)]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit, env=environment)
    except subprocess.TimeoutExpired:
        raise RivalError(f"torch.compile was not done after {limit:.0f} s") from None
    if done.returncode:
        raise RivalError(f"torch: {done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else done.returncode}")
    return float(done.stdout.split()[-1])


def measure(network: str, batch: int, device: str, mode: str, seconds: float) -> float:
    """Samples a second of the network in float16 and channels-last order, on images that are on the device."""
    import torch

    net = getattr(networks, network)()
    dtype = torch.float16 if device != "cpu" else torch.float32  # the CPU has few kernels of float16
    module = _normalized(net.module(), dtype).to(device=device, dtype=dtype, memory_format=torch.channels_last)
    images = torch.from_numpy(net.images(batch)).to(device).to(memory_format=torch.channels_last)
    run: Any = module if mode == "eager" else torch.compile(module, mode=mode)
    with torch.inference_mode():
        for _ in range(3):
            run(images)
        return batch / _seconds(lambda: run(images), device, seconds)


def _normalized(module: Any, dtype: Any) -> Any:
    """The network with the normalization of bytes in front."""
    import torch

    class Normalized(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module
            for name, values in (("mean", networks.MEAN), ("std", networks.STD)):
                self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))

        def forward(self, images: Any) -> Any:
            return self.network((images.to(dtype) - self.mean) / self.std)

    return Normalized().eval()


def _seconds(run: Any, device: str, seconds: float) -> float:
    import torch

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    wait()
    runs, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(8):
            run()
        wait()
        runs += 8
    return (time.perf_counter() - began) / runs


if __name__ == "__main__":
    name, size, where, how, length = sys.argv[1:]
    print(measure(name, int(size), where, how, float(length)))
