"""ResNet-50 with pre-activation: BN and ReLU in front of each convolution.

He et al., "Identity Mappings in Deep Residual Networks" (2016), figure 4 (e). The first BN of a block acts on the sum that the
shortcut carries on, with a ReLU behind it; the other two have a convolution before them.
"""

from torch import Tensor, nn

from architectures.statistics import settle

INPUTS = {"image": ("FP32", (-1, 3, 224, 224))}
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride of the first
EXPANSION = 4


class Block(nn.Module):
    """1x1 down, 3x3, 1x1 up, each behind BN and ReLU, around a shortcut."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels = width * EXPANSION
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.projection = None if channels_in == channels else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, H, W] to [N, 4 width, H/stride, W/stride]."""
        y = self.norm1(x).relu()
        shortcut = x if self.projection is None else self.projection(y)
        y = self.norm2(self.conv1(y)).relu()
        y = self.norm3(self.conv2(y)).relu()
        result: Tensor = shortcut + self.conv3(y)
        return result


def network() -> nn.Module:
    """Return the network, image float32 [N, 3, 224, 224] -> logits float32 [N, 1000]."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.MaxPool2d(3, 2, padding=1)]
    channels = 64
    for width, number, stride in STAGES:
        for index in range(number):
            layers.append(Block(channels, width, 1 if index else stride))
            channels = width * EXPANSION
    head = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    return settle(nn.Sequential(*layers, *head), INPUTS)
