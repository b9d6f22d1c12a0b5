"""GoogLeNet with batch norm: four branches a block, joined by concatenation.

Szegedy et al., "Going deeper with convolutions" (2015), table 1 without the auxiliary classifiers, and with a BN behind each
convolution as Ioffe and Szegedy, "Batch Normalization" (2015), have it.
"""

import torch
from torch import Tensor, nn

from architectures.layers import conv_norm
from architectures.statistics import settle

INPUTS = {"image": ("FP32", (-1, 3, 224, 224))}
# the widths of the branches: 1x1; 1x1 then 3x3; 1x1 then 5x5; pooling then 1x1
STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, channels_in: int, one: int, narrow3: int, three: int, narrow5: int, five: int, pooled: int) -> None:
        super().__init__()
        self.one = unit(channels_in, one)
        self.three = nn.Sequential(unit(channels_in, narrow3), unit(narrow3, three, 3))
        self.five = nn.Sequential(unit(channels_in, narrow5), unit(narrow5, five, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), unit(channels_in, pooled))
        self.channels = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, H, W] to [N, channels, H, W]."""
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pooled(x)), dim=1)


def unit(channels_in: int, channels: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Return a convolution, its batch norm and a ReLU."""
    return conv_norm(channels_in, channels, kernel, stride, act=nn.ReLU())


def network() -> nn.Module:
    """Return the network, image float32 [N, 3, 224, 224] -> logits float32 [N, 1000]."""
    pool = nn.MaxPool2d(3, 2, padding=1)
    layers: list[nn.Module] = [unit(3, 64, 7, 2), pool, unit(64, 64), unit(64, 192, 3)]
    channels = 192
    for stage in STAGES:
        layers.append(pool)
        for widths in stage:
            block = Inception(channels, *widths)
            layers.append(block)
            channels = block.channels
    return settle(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(channels, 1000)), INPUTS
    )
