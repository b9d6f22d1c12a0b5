"""What most of the networks are made of."""

from torch import nn


def conv_norm(
    channels_in: int, channels: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    """Return a convolution that keeps the size but for its stride, its batch norm, and what follows where something does."""
    conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), *([] if act is None else [act]))
