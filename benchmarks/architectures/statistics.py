"""Weights and running statistics for networks that nobody has trained: seeded, and as uneven as trained ones are.

The variances of trained batch norms span many powers of ten, some of their scales are negative, and their means are not
zero. So each output channel of a layer in front of a batch norm has a size of its own, 0.03 to 10 times the usual. The
statistics are then those of drawn inputs, so that activations stay finite at any depth, and they are jittered, so that they
fit no input exactly. The answers mean nothing; the cost and the numerics are those of the architecture.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

ROWS = 8
NEGATIVE = 0.05  # of the scales
LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def settle(network: nn.Module, inputs: Mapping[str, tuple[str, tuple[int, ...]]]) -> nn.Module:
    """Draw the weights of a network and give its batch norms the statistics of drawn inputs, in place.

    Args:
        network: Any network of this package.
        inputs: (datatype, dims) by name; the first of dims is the batch.

    Returns:
        The network, in eval mode.
    """
    shapes = [dims[1:] for _, dims in inputs.values()]
    with torch.no_grad():
        for module in network.modules():
            _draw(module)
        for layer in _in_front_of_norms(network, shapes):
            _spread(layer)
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:
            norm.momentum = None  # the plain average: one batch replaces the initial 0 and 1
        network.train()(*(_uneven((ROWS, *shape)) for shape in shapes))
        for norm in norms:
            _jitter(norm)
    return network.eval()


def _draw(module: nn.Module) -> None:
    if isinstance(module, _BatchNorm):
        nn.init.uniform_(module.weight, 0.3, 1.5)
        module.weight[torch.rand_like(module.weight) < NEGATIVE] *= -1
        nn.init.normal_(module.bias, 0.0, 0.3)
    elif isinstance(module, LAYERS):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _in_front_of_norms(network: nn.Module, shapes: Sequence[tuple[int, ...]]) -> list[nn.Module]:
    """Return the layers that a batch norm follows sooner than another layer does, in the order in which they run."""
    ran: list[nn.Module] = []
    kinds = (*LAYERS, _BatchNorm)
    hooks = [
        module.register_forward_hook(lambda module, *_: ran.append(module))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    network.eval()(*(torch.zeros(1, *shape) for shape in shapes))
    for hook in hooks:
        hook.remove()
    return [one for one, after in pairwise(ran) if isinstance(after, _BatchNorm) and not isinstance(one, _BatchNorm)]


def _spread(layer: Any) -> None:
    """Give each output channel a size of its own."""
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    shape = [size if number == axis else 1 for number, size in enumerate(layer.weight.shape)]
    layer.weight *= 10.0 ** torch.empty(shape).uniform_(-1.5, 1.0)


def _uneven(shape: tuple[int, ...]) -> Tensor:
    """Return rows of different brightness and contrast, so that what is averaged over a row still varies between rows."""
    per_row = (shape[0], *[1] * (len(shape) - 1))
    return torch.randn(shape) * 10.0 ** torch.empty(per_row).uniform_(-0.5, 0.5) + torch.randn(per_row)


def _jitter(norm: Any) -> None:
    norm.momentum = 0.1
    norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
    norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
