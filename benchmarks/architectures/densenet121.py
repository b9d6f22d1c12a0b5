"""DenseNet-121: batch norms in front of ReLU and convolution, on concatenations that grow.

Huang et al., "Densely Connected Convolutional Networks" (2017), table 1: a layer is BN, ReLU, 1x1 convolution, BN, ReLU, 3x3
convolution, and sees the concatenation of all before it in its block. Its first BN acts on values that other layers see too,
and a ReLU follows: nobody can fold that one exactly.
"""

import torch
from torch import Tensor, nn

from architectures.statistics import settle

INPUTS = {"image": ("FP32", (-1, 3, 224, 224))}
BLOCKS = (6, 12, 24, 16)
GROWTH = 32


def norm_conv(channels_in: int, channels: int, kernel: int) -> nn.Sequential:
    """Return BN, ReLU and a convolution that keeps the size."""
    conv = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(), conv)


class Layer(nn.Module):
    """Adds GROWTH channels to those that it is given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = norm_conv(channels, 4 * GROWTH, 1)
        self.grow = norm_conv(4 * GROWTH, GROWTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C + GROWTH, H, W]."""
        return torch.cat((x, self.grow(self.narrow(x))), dim=1)


def network() -> nn.Module:
    """Return the network, image float32 [N, 3, 224, 224] -> logits float32 [N, 1000]."""
    channels = 2 * GROWTH
    stem = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    for index, number in enumerate(BLOCKS):
        if index:
            layers += [norm_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        layers += [Layer(channels + GROWTH * grown) for grown in range(number)]
        channels += GROWTH * number
    head = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    return settle(nn.Sequential(*layers, *head), INPUTS)
