"""The x-vector network: batch norms between ReLU and an unpadded, dilated convolution in one dimension.

Snyder et al., "X-Vectors: Robust DNN Embeddings for Speaker Recognition" (2018), table 1: five layers in time, mean
and standard deviation over all frames, and three on the whole; ReLU and then BN behind each, as Kaldi's recipe has it.
"""

import torch
from torch import Tensor, nn

from architectures.statistics import settle

INPUTS = {"frames": ("FP32", (-1, 24, 300))}
IN_TIME = (
    (24, 512, 5, 1),
    (512, 512, 3, 2),
    (512, 512, 3, 3),
    (512, 512, 1, 1),
    (512, 1500, 1, 1),
)  # in, out, kernel, dilation
SPEAKERS = 1000


class Pooling(nn.Module):
    """The mean and the standard deviation of each channel over time."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, T] to [N, 2 C]."""
        mean = x.mean(dim=2)
        variance = (x - mean.unsqueeze(2)).square().mean(dim=2)
        return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1)


def network() -> nn.Module:
    """Return the network, frames float32 [N, 24, 300] -> a score a speaker, float32 [N, 1000]."""
    layers: list[nn.Module] = []
    for channels_in, channels, kernel, dilation in IN_TIME:
        layers += [nn.Conv1d(channels_in, channels, kernel, dilation=dilation), nn.ReLU(), nn.BatchNorm1d(channels)]
    layers.append(Pooling())
    for features, units in ((3000, 512), (512, 512)):
        layers += [nn.Linear(features, units), nn.ReLU(), nn.BatchNorm1d(units)]
    return settle(nn.Sequential(*layers, nn.Linear(512, SPEAKERS)), INPUTS)
