"""ConvMixer-256/8 for pictures of 32x32: every batch norm stands behind an activation, so that its map can only go forward.

Trockman and Kolter, "Patches Are All You Need?" (2022), figure 2: patches, then blocks of a residual depthwise convolution
and a pointwise one, GELU and then BN behind each. What a block gets goes both into its padded convolution and past it.
"""

from torch import Tensor, nn

from architectures.statistics import settle

INPUTS = {"image": ("FP32", (-1, 3, 32, 32))}
CHANNELS, BLOCKS, KERNEL, PATCH = 256, 8, 9, 1


class Mixer(nn.Module):
    """Mixes places, then channels."""

    def __init__(self) -> None:
        super().__init__()
        depthwise = nn.Conv2d(CHANNELS, CHANNELS, KERNEL, padding=KERNEL // 2, groups=CHANNELS)
        self.places = nn.Sequential(depthwise, nn.GELU(), nn.BatchNorm2d(CHANNELS))
        self.channels = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.GELU(), nn.BatchNorm2d(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        result: Tensor = self.channels(self.places(x) + x)
        return result


def network() -> nn.Module:
    """Return the network, image float32 [N, 3, 32, 32] -> logits float32 [N, 10]."""
    patches = [nn.Conv2d(3, CHANNELS, PATCH, PATCH), nn.GELU(), nn.BatchNorm2d(CHANNELS)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10)]
    return settle(nn.Sequential(*patches, *(Mixer() for _ in range(BLOCKS)), *head), INPUTS)
