"""The IR-50 of ArcFace: a BN in front of a zero-padded convolution in every block, and one in front of the last layer.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition" (2019), section 3.1: a residual unit is BN,
convolution, BN, PReLU, convolution, BN; the head is BN, Dropout, fully connected, BN. The first BN of a unit can only go
forward, over the border of zeros; the shortcut carries on what is in front of it.
"""

from torch import Tensor, nn

from architectures.layers import conv_norm
from architectures.statistics import settle

INPUTS = {"face": ("FP32", (-1, 3, 112, 112))}
STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))  # width, blocks; each begins with stride 2
EMBEDDING = 512


class Unit(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.first = conv_norm(channels_in, channels, 3, act=nn.PReLU(channels))
        self.second = conv_norm(channels, channels, 3, stride)
        self.shortcut = nn.Identity() if stride == 1 else conv_norm(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, H, W] to [N, channels, H/stride, W/stride]."""
        result: Tensor = self.second(self.first(self.norm(x))) + self.shortcut(x)
        return result


def network() -> nn.Module:
    """Return the network, face float32 [N, 3, 112, 112] -> embedding float32 [N, 512]."""
    layers: list[nn.Module] = [conv_norm(3, 64, 3, act=nn.PReLU(64))]
    channels = 64
    for width, number in STAGES:
        for index in range(number):
            layers.append(Unit(channels, width, 1 if index else 2))
            channels = width
    head = [nn.BatchNorm2d(channels), nn.Dropout(0.4), nn.Flatten()]
    return settle(nn.Sequential(*layers, *head, nn.Linear(channels * 7 * 7, EMBEDDING), nn.BatchNorm1d(EMBEDDING)), INPUTS)
