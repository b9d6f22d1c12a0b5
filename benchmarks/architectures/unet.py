"""U-Net with batch norm: an encoder, and a decoder of transposed convolutions that sees the encoder's maps beside its own.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015), figure 1, with the padding and the
BN behind each convolution that Cicek et al., "3D U-Net" (2016), added; half as wide as the first.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from architectures.layers import conv_norm
from architectures.statistics import settle

INPUTS = {"image": ("FP32", (-1, 1, 256, 256))}
WIDTHS = (32, 64, 128, 256, 512)


def double(channels_in: int, channels: int) -> nn.Sequential:
    """Return two 3x3 convolutions."""
    return nn.Sequential(conv_norm(channels_in, channels, 3, act=nn.ReLU()), conv_norm(channels, channels, 3, act=nn.ReLU()))


def upward(channels: int) -> nn.Sequential:
    """Return what doubles the size and halves the channels."""
    return nn.Sequential(nn.ConvTranspose2d(channels, channels // 2, 2, 2, bias=False), nn.BatchNorm2d(channels // 2))


class UNet(nn.Module):
    """image float32 [N, 1, 256, 256] -> classes float32 [N, 2, 256, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(double(one, two) for one, two in pairwise((1, *WIDTHS)))
        self.up = nn.ModuleList(upward(width) for width in WIDTHS[:0:-1])
        self.join = nn.ModuleList(double(width, width // 2) for width in WIDTHS[:0:-1])
        self.classes = nn.Conv2d(WIDTHS[0], 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return a score a class and a pixel."""
        x = self.down[0](image)
        seen = []
        for down in list(self.down)[1:]:
            seen.append(x)
            x = down(nn.functional.max_pool2d(x, 2))
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat((seen.pop(), up(x)), dim=1))
        result: Tensor = self.classes(x)
        return result


def network() -> nn.Module:
    """Return the network of the paper, half as wide."""
    return settle(UNet(), INPUTS)
