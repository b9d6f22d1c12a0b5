"""A small residual network for 8x8 digits: nine batch norms, 150 thousand parameters, trained weights beside this file.

Residual blocks as He et al., "Deep Residual Learning for Image Recognition" (2015), figure 2 and equation 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from normserve_models.zoo.digits_data import held_out, training

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["INPUTS", "OUTPUTS", "WEIGHTS", "Digits", "held_out", "load", "training"]

WEIGHTS = Path(__file__).with_name("digits.safetensors")
CARD = Path(__file__).with_name("digits.json")
INPUTS = {"image": ("FP32", (-1, 1, 8, 8))}  # pixels divided by 16
OUTPUTS = ["logits"]


class Block(nn.Module):
    """Two 3x3 convolutions with batch norms around a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, H, W] to [N, channels, H/stride, W/stride]."""
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y))
        result: Tensor = (y + self.shortcut(x)).relu()
        return result


class Digits(nn.Module):
    """image float32 [N, 1, 8, 8] from 0 to 1 -> logits float32 [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.blocks = nn.Sequential(Block(32, 32), Block(32, 64, stride=2), Block(64, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits, [N, 10]."""
        features: Tensor = self.blocks(self.stem(image))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def load() -> Digits:
    """Return the trained network in eval mode.

    Raises:
        FileNotFoundError: The weights are not there; `make train` writes them.
    """
    from safetensors.torch import load_file  # noqa: PLC0415 - training does not read weights

    if not WEIGHTS.exists():
        raise FileNotFoundError(f"the weights {WEIGHTS} are not there: `make train` writes them")
    network = Digits()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()
