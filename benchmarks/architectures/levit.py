"""LeViT-128S: a transformer whose linear layers each have a batch norm, on tokens flattened into the batch.

Graham et al., "LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference" (2021), table 2 and figure 5. The
channels are the last axis of the tokens, [N, T, C]; BN works on axis 1, so that the tokens go through it as [N T, C].
"""

import torch
from torch import Tensor, nn

from architectures.layers import conv_norm
from architectures.statistics import settle

INPUTS = {"image": ("FP32", (-1, 3, 224, 224))}
STAGES = ((128, 2, 4), (256, 3, 6), (384, 4, 8))  # channels, blocks, heads
KEY = 16


class LinearNorm(nn.Module):
    """A linear layer on the last axis, and its batch norm."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels_in, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, channels_in] to [N, T, channels]."""
        y: Tensor = self.linear(x)
        return torch.reshape(self.norm(y.flatten(0, 1)), y.shape)


class Attention(nn.Module):
    """Attention with a learned bias a pair of places; `stride` 2 asks from every other place only."""

    def __init__(self, channels_in: int, channels: int, heads: int, size: int, *, ratio: int = 2, stride: int = 1) -> None:
        super().__init__()
        self.heads, self.value, self.size, self.stride = heads, ratio * KEY, size, stride
        places = -(-size // stride)
        self.query = LinearNorm(channels_in, heads * KEY)
        self.keys_values = LinearNorm(channels_in, heads * (KEY + self.value))
        self.bias = nn.Parameter(0.1 * torch.randn(heads, places**2, size**2))
        self.out = nn.Sequential(nn.Hardswish(), LinearNorm(heads * self.value, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, size^2, channels_in] to [N, (size/stride)^2, channels]."""
        asking = x.unflatten(1, (self.size, self.size))[:, :: self.stride, :: self.stride].flatten(1, 2)
        query = self.query(asking).unflatten(2, (self.heads, KEY)).transpose(1, 2)
        keys_values = self.keys_values(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        keys, values = keys_values.split((KEY, self.value), dim=3)
        weights = (query @ keys.transpose(2, 3) * KEY**-0.5 + self.bias).softmax(dim=3)
        result: Tensor = self.out((weights @ values).transpose(1, 2).flatten(2, 3))
        return result


class Residual(nn.Module):
    """Adds what a layer makes of its input to it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        result: Tensor = x + self.layer(x)
        return result


class Stem(nn.Module):
    """Four strided convolutions, and the picture as tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (3, channels // 8, channels // 4, channels // 2)
        convolutions = [conv_norm(one, 2 * one if one > 3 else widths[1], 3, 2, act=nn.Hardswish()) for one in widths[:3]]
        self.convolutions = nn.Sequential(*convolutions, conv_norm(channels // 2, channels, 3, 2))

    def forward(self, image: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, H W / 256, channels]."""
        result: Tensor = self.convolutions(image)
        return result.flatten(2).transpose(1, 2)


class Head(nn.Module):
    """The mean of the tokens, a batch norm and the classes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.classes = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, C] to [N, 1000]."""
        result: Tensor = self.classes(self.norm(x.mean(dim=1)))
        return result


def _perceptron(channels: int) -> nn.Module:
    return Residual(nn.Sequential(LinearNorm(channels, 2 * channels), nn.Hardswish(), LinearNorm(2 * channels, channels)))


def network() -> nn.Module:
    """Return the network, image float32 [N, 3, 224, 224] -> logits float32 [N, 1000]."""
    channels, size = STAGES[0][0], 14
    layers: list[nn.Module] = [Stem(channels)]
    for width, number, heads in STAGES:
        if width != channels:
            layers += [Attention(channels, width, channels // KEY, size, ratio=4, stride=2), _perceptron(width)]
            channels, size = width, -(-size // 2)
        for _ in range(number):
            layers += [Residual(Attention(width, width, heads, size)), _perceptron(width)]
    return settle(nn.Sequential(*layers, Head(channels)), INPUTS)
