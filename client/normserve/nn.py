"""For those who have torch: a normalizer as a torch.nn.Module, and torch's layers as normalizers."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from normserve.errors import InvalidArgumentError
from normserve.layers import STATE_VERSION, BatchNormLayer, InstanceNormLayer
from normserve.normalizer import Normalizer
from normserve.torch_tensors import to_numpy, to_torch

_BATCH_NORMS: dict[type, int] = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3, nn.SyncBatchNorm: 0}
_INSTANCE_NORMS: dict[type, int] = {nn.InstanceNorm1d: 1, nn.InstanceNorm2d: 2, nn.InstanceNorm3d: 3}


class RemoteBatchNorm(nn.Module):
    """A normalizer in a server, in the place of a torch layer such as BatchNorm1d.

        network = nn.Sequential(RemoteBatchNorm(client.normalizer("obs")), nn.Linear(17, 64))

    `train()` and `eval()` decide for each call whether it trains, whatever the normalizer's own mode is. `state_dict()` and
    `load_state_dict()` fetch and replace the state in the server, under the names that the torch layer has.

    It has no parameters, and gradients do not go through it: the backward pass raises RuntimeError where one would have to.
    So it belongs in front of what is trained, whose input needs no gradient, or under torch.no_grad().

    Args:
        normalizer: of `Client.normalizer`; has to be there by the first call.
    """

    _version = STATE_VERSION

    def __init__(self, normalizer: Normalizer) -> None:
        super().__init__()
        self.normalizer = normalizer

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """Normalizes, and in training updates the statistics.

        Args:
            input: of a shape that the layer takes; float16, bfloat16, float32 or float64, on any device.

        Returns:
            A tensor of the same dtype and shape on the same device.

        Raises:
            InvalidArgumentError: the layer does not take such an input.
            NormserveError: the call was not answered.
        """
        output: torch.Tensor = _ForwardOnly.apply(input, self.normalizer, self.training)  # type: ignore[no-untyped-call]
        return output

    def extra_repr(self) -> str:
        """Names the normalizer."""
        return repr(self.normalizer.name)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, array in self.normalizer.state_dict().items():
            destination[prefix + name] = to_torch(array)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        given = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        present = self.normalizer.state_dict()
        version = local_metadata.get("version") or 1
        missing = [key for key in present if key not in given and (version >= STATE_VERSION or key != "num_batches_tracked")]
        if strict:  # which torch always says here, and raises by what is in the lists, once all there is has been loaded
            missing_keys += [prefix + key for key in missing]
            unexpected_keys += [prefix + key for key in given if key not in present]
        given = {key: given.get(key, array) for key, array in present.items() if key in given or key in missing}
        try:
            self.normalizer.load_state_dict(_OfVersion(given, version))
        except InvalidArgumentError as error:
            error_msgs.append(error.message)


class _ForwardOnly(torch.autograd.Function):
    """Leaves the graph whole, so that a gradient that would be wrong is an error and not missing."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, normalizer: Normalizer, training: bool) -> torch.Tensor:  # noqa: A002
        ctx.name = normalizer.name
        return to_torch(normalizer.apply(to_numpy(input), training=training)).to(input.device)

    @staticmethod
    def backward(ctx: Any, *_gradients: Any) -> Any:
        raise RuntimeError(
            f"gradients do not go through normalizer '{ctx.name}', which is in a server: "
            "call it under torch.no_grad() or with input.detach()"
        )


class _OfVersion(dict[str, Any]):
    """A state dict of one layer with the version that torch has told."""

    def __init__(self, state: Mapping[str, Any], version: int) -> None:
        super().__init__(state)
        self._metadata = {"": {"version": version}}


def layer_of(module: nn.Module) -> BatchNormLayer | InstanceNormLayer:
    """Gives the layer that computes what a torch module does; its state is `module.state_dict()`.

    Args:
        module: a BatchNorm1d, 2d or 3d, a SyncBatchNorm, or an InstanceNorm1d, 2d or 3d, none of them lazy.

    Raises:
        InvalidArgumentError: it is none of them.
    """
    kind: type = type(module)
    if kind in _BATCH_NORMS:
        return BatchNormLayer(dimensions=_BATCH_NORMS[kind], **_arguments(module))
    if kind in _INSTANCE_NORMS:
        return InstanceNormLayer(dimensions=_INSTANCE_NORMS[kind], **_arguments(module))
    raise InvalidArgumentError(f"wanted a batch norm or an instance norm of torch.nn, got {kind.__name__}")


def _arguments(module: nn.Module) -> dict[str, Any]:
    names = ("num_features", "eps", "momentum", "affine", "track_running_stats")
    held = next(chain(module.parameters(), module.buffers()), None)
    dtype = np.dtype(np.float32) if held is None else to_numpy(held).dtype
    return {name: getattr(module, name) for name in names} | {"dtype": dtype}
