"""ResNet-50 for benchmarks: 25.6 million parameters, 53 batch norms, seeded weights and plausible seeded statistics.

He et al., "Deep Residual Learning for Image Recognition" (2015), table 1 and figure 5, in the variant known as v1.5,
which strides in the 3x3 convolution of a bottleneck instead of the first 1x1. The weights are drawn, not trained: the
answers mean nothing, and the cost and the numerics are those of the real network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

INPUTS = {"image": ("FP32", (-1, 3, 224, 224))}
OUTPUTS = ["logits"]
SEED = 0
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride of the first
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, each with its batch norm, around a shortcut."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels = width * EXPANSION
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, H, W] to [N, 4 width, H/stride, W/stride]."""
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y)).relu()
        y = self.norm3(self.conv3(y))
        result: Tensor = (y + self.shortcut(x)).relu()
        return result


class ResNet50(nn.Module):
    """image float32 [N, 3, 224, 224] -> logits float32 [N, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        blocks: list[nn.Module] = []
        channels = 64
        for width, count, stride in STAGES:
            for index in range(count):
                blocks.append(Bottleneck(channels, width, stride if index == 0 else 1))
                channels = width * EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, 1000)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits, [N, 1000]."""
        features: Tensor = self.pool(self.blocks(self.stem(image)))
        logits: Tensor = self.head(features.flatten(1))
        return logits


def load() -> ResNet50:
    """Return the network in eval mode, the same each time on one version of torch."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        network = ResNet50()
        for module in network.modules():
            _draw(module)
        _settle(network)
    return network.eval()


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.uniform_(module.weight, 0.5, 1.0)
        nn.init.normal_(module.bias, 0.0, 0.1)


def _settle(network: ResNet50) -> None:
    """Take the statistics of drawn images and jitter them, so that they fit as well as a trained network's fit new data."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain average: one batch replaces the initial 0 and 1
    network.train()(torch.randn(4, 3, 96, 96))
    for norm in norms:
        norm.momentum = 0.1
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None  # noqa: S101 - track_running_stats is torch's default
        assert variance is not None  # noqa: S101
        mean += 0.1 * variance.sqrt() * torch.randn_like(mean)
        variance *= torch.empty_like(variance).uniform_(0.8, 1.25)
