"""RepVGG-A0 as it is trained: 61 batch norms that a fold should leave none of, and 22 convolutions.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again" (2021), table 2 and figure 2: each block is the sum of a 3x3
convolution, a 1x1 convolution and, where the shape stays, the input itself, each with a batch norm, before one ReLU.
"""

from torch import Tensor, nn

from architectures.layers import conv_norm
from architectures.statistics import settle

INPUTS = {"image": ("FP32", (-1, 3, 224, 224))}
STAGES = ((48, 1), (48, 2), (96, 4), (192, 14), (1280, 1))  # width, blocks; each begins with stride 2


class Block(nn.Module):
    """Three branches and one ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.three = conv_norm(channels_in, channels, 3, stride)
        self.one = conv_norm(channels_in, channels, 1, stride)
        self.same = nn.BatchNorm2d(channels) if stride == 1 and channels_in == channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, H, W] to [N, channels, H/stride, W/stride]."""
        y: Tensor = self.three(x) + self.one(x)
        return (y if self.same is None else y + self.same(x)).relu()


def network() -> nn.Module:
    """Return the network, image float32 [N, 3, 224, 224] -> logits float32 [N, 1000]."""
    blocks: list[nn.Module] = []
    channels = 3
    for width, number in STAGES:
        for index in range(number):
            blocks.append(Block(channels, width, 1 if index else 2))
            channels = width
    return settle(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)), INPUTS)
