"""PointNet: the same small network on every point, a maximum over all, and two networks that predict a transform.

Qi et al., "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation" (2017), figure 2 and appendix C.
Convolutions in one dimension, linear layers, and a batch norm behind each but the last.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from architectures.statistics import settle

INPUTS = {"points": ("FP32", (-1, 3, 1024))}


def pointwise(*widths: int) -> nn.Sequential:
    """Return layers that treat each point of [N, C, points] alike."""
    layers: list[nn.Module] = []
    for channels_in, channels in pairwise(widths):
        layers += [nn.Conv1d(channels_in, channels, 1), nn.BatchNorm1d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def dense(*widths: int) -> nn.Sequential:
    """Return linear layers on [N, C]; the last has no batch norm."""
    layers: list[nn.Module] = []
    for channels_in, channels in pairwise(widths[:-1]):
        layers += [nn.Linear(channels_in, channels), nn.BatchNorm1d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class Transform(nn.Module):
    """Predicts a square matrix from all points, and applies it to each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.each = pointwise(channels, 64, 128, 1024)
        self.all = dense(1024, 512, 256, channels**2)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape, [N, channels, points]."""
        matrix = self.all(self.each(x).amax(dim=2)).unflatten(1, (self.channels, self.channels))
        result: Tensor = (matrix + torch.eye(self.channels)) @ x
        return result


class PointNet(nn.Module):
    """points float32 [N, 3, 1024] -> logits float32 [N, 40]."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(Transform(3), pointwise(3, 64, 64), Transform(64), pointwise(64, 64, 128, 1024))
        self.all = dense(1024, 512, 256, 40)

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits."""
        result: Tensor = self.all(self.each(points).amax(dim=2))
        return result


def network() -> nn.Module:
    """Return the classifier of the paper."""
    return settle(PointNet(), INPUTS)
