"""torch's tensors and numpy's arrays, one as the other. torch is imported by what makes tensors, when it is called."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from normserve_proto.tensors import Array

if TYPE_CHECKING:
    import torch


def to_numpy(tensor: Any) -> Array:
    """Gives an array with a tensor's content, without its gradient; whatever else numpy takes for an array is one as it is."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    import torch  # noqa: PLC0415 - whoever has a tensor has it

    plain = tensor.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:  # which numpy does not know
        bits: Array = plain.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = plain.numpy()
    return array


def to_torch(array: Array) -> "torch.Tensor":
    """Gives a tensor with a copy of an array, which may be read-only."""
    import torch  # noqa: PLC0415 - only for those who have it

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def state_dict(arrays: Mapping[str, Array], version: int) -> dict[str, Any]:
    """Gives a layer's state dict of tensors, with the `_metadata` that torch keeps its version in."""
    state: OrderedDict[str, Any] = OrderedDict((name, to_torch(array)) for name, array in arrays.items())
    state._metadata = OrderedDict({"": {"version": version}})  # type: ignore[attr-defined]
    return state


def version_of(state: Mapping[str, Any]) -> int | None:
    """Tells the version of a state dict of one layer; None where it has none."""
    metadata = getattr(state, "_metadata", {})
    version: int | None = metadata.get("", {}).get("version")
    return version
