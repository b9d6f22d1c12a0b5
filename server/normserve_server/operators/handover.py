"""From a session to an operator and back without a copy, wherever the tensor is: torch's tensors and onnxruntime's by DLPack.

Neither side waits for the other here: both are to be ordered on one lane. So the capsules are handed over by themselves,
without the exchange of streams that `torch.from_dlpack` makes.
"""

from typing import Any

import torch
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_c
from torch.utils.dlpack import from_dlpack, to_dlpack  # type: ignore[attr-defined] # imported there without saying so


def to_value(tensor: torch.Tensor) -> Any:
    """Gives a contiguous tensor as onnxruntime's OrtValue, in the same memory, which it keeps."""
    boolean = tensor.dtype == torch.bool  # which onnxruntime takes as bytes
    return onnxruntime_c.OrtValue.from_dlpack(to_dlpack(tensor.view(torch.uint8) if boolean else tensor), boolean)


def to_tensor(value: Any) -> torch.Tensor:
    """Gives an OrtValue as a tensor, in the same memory, which it keeps."""
    tensor: torch.Tensor = from_dlpack(value.to_dlpack())
    return tensor.view(torch.bool) if value.data_type() == "tensor(bool)" else tensor
