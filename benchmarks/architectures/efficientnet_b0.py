"""EfficientNet-B0: inverted bottlenecks with squeeze and excitation.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), table 1; the blocks are those of
MobileNetV2 with the squeeze and excitation of Hu et al. (2018) on the widened channels.
"""

from torch import Tensor, nn

from architectures.layers import conv_norm
from architectures.statistics import settle

INPUTS = {"image": ("FP32", (-1, 3, 224, 224))}
# expansion, channels, blocks, stride of the first, kernel
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class Excitation(nn.Module):
    """Scales each channel by what the average of all channels says."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        down, up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), down, nn.SiLU(), up, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        result: Tensor = x * self.gate(x)
        return result


class Block(nn.Module):
    """1x1 up, depthwise, excitation, 1x1 down without an activation."""

    def __init__(self, channels_in: int, channels: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        width = channels_in * expansion
        widen = [] if expansion == 1 else [conv_norm(channels_in, width, act=nn.SiLU())]
        depthwise = conv_norm(width, width, kernel, stride, groups=width, act=nn.SiLU())
        self.way = nn.Sequential(*widen, depthwise, Excitation(width, channels_in // 4), conv_norm(width, channels))
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, H, W] to [N, channels, H/stride, W/stride]."""
        y: Tensor = self.way(x)
        return x + y if self.residual else y


def network() -> nn.Module:
    """Return the network, image float32 [N, 3, 224, 224] -> logits float32 [N, 1000]."""
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, act=nn.SiLU())]
    channels = 32
    for expansion, width, number, stride, kernel in STAGES:
        for index in range(number):
            layers.append(Block(channels, width, expansion, 1 if index else stride, kernel))
            channels = width
    last = conv_norm(channels, 1280, act=nn.SiLU())
    return settle(
        nn.Sequential(*layers, last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, 1000)), INPUTS
    )
