"""MobileOne-S0 as it is trained: four times the same convolution beside each other, and what they add up to is one.

Vasu et al., "MobileOne: An Improved One millisecond Mobile Backbone" (2023), table 3 and figure 3. Each block is a depthwise
3x3 part and a pointwise part. A part sums `BRANCHES` convolutions, a 1x1 depthwise one beside the 3x3 ones, and the
input itself where the shape stays; every branch has a batch norm, and one ReLU follows.
"""

from torch import Tensor, nn

from architectures.layers import conv_norm
from architectures.statistics import settle

INPUTS = {"image": ("FP32", (-1, 3, 224, 224))}
BRANCHES = 4
STAGES = ((48, 2, 2), (128, 8, 2), (256, 5, 2), (256, 5, 1), (1024, 1, 2))  # width, blocks, stride of the first


class Part(nn.Module):
    """Parallel branches and one ReLU."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv_norm(channels_in, channels, kernel, stride, groups=groups) for _ in range(BRANCHES))
        if kernel > 1:
            self.branches.append(conv_norm(channels_in, channels, 1, stride, groups=groups))
        if stride == 1 and channels_in == channels:
            self.branches.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, H, W] to [N, channels, H/stride, W/stride]."""
        y: Tensor = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            y = y + branch(x)
        return y.relu()


def network() -> nn.Module:
    """Return the network, image float32 [N, 3, 224, 224] -> logits float32 [N, 1000]."""
    parts: list[nn.Module] = [Part(3, 48, 3, 2, groups=1)]
    channels = 48
    for width, number, stride in STAGES:
        for index in range(number):
            parts.append(Part(channels, channels, 3, 1 if index else stride, groups=channels))
            parts.append(Part(channels, width, 1, 1, groups=1))
            channels = width
    return settle(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)), INPUTS)
