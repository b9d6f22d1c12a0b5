"""ShuffleNetV2 1x: channels split, joined and shuffled between batch norms without an activation.

Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design" (2018), figure 3 (c, d) and table 5.
"""

import torch
from torch import Tensor, nn

from architectures.layers import conv_norm
from architectures.statistics import settle

INPUTS = {"image": ("FP32", (-1, 3, 224, 224))}
STAGES = ((116, 4), (232, 8), (464, 4))  # channels, units; each begins with stride 2


def branch(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    """Return 1x1, depthwise 3x3 and 1x1, each with its batch norm."""
    first = conv_norm(channels_in, channels, act=nn.ReLU())
    return nn.Sequential(first, *depthwise(channels, channels, stride))


def depthwise(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    """Return a depthwise 3x3 and a 1x1."""
    middle = conv_norm(channels_in, channels_in, 3, stride, groups=channels_in)
    return nn.Sequential(middle, conv_norm(channels_in, channels, act=nn.ReLU()))


def shuffled(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels."""
    halves: Tensor = x.unflatten(1, (2, -1))
    return halves.transpose(1, 2).flatten(1, 2)


class Unit(nn.Module):
    """Works on half of the channels and lets the other half through."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.way = branch(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        same, other = x.chunk(2, dim=1)
        return shuffled(torch.cat((same, self.way(other)), dim=1))


class Down(nn.Module):
    """Halves the size on both branches."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.left = depthwise(channels_in, channels // 2, 2)
        self.right = branch(channels_in, channels // 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, H, W] to [N, channels, H/2, W/2]."""
        return shuffled(torch.cat((self.left(x), self.right(x)), dim=1))


def network() -> nn.Module:
    """Return the network, image float32 [N, 3, 224, 224] -> logits float32 [N, 1000]."""
    layers: list[nn.Module] = [conv_norm(3, 24, 3, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, padding=1)]
    channels = 24
    for width, number in STAGES:
        layers += [Down(channels, width), *(Unit(width) for _ in range(number - 1))]
        channels = width
    last = conv_norm(channels, 1024, act=nn.ReLU())
    return settle(nn.Sequential(*layers, last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)), INPUTS)
