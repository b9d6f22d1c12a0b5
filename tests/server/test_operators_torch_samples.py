"""torch's own samples, of its functionals and of its modules, through the operators: bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_samples
from normserve_proto.tensors import DTYPES, Array
from normserve_server import operators
from normserve_server.errors import InvalidRequestError

NAMES = ("batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "local_response_norm", "normalize")
DTYPES_OF_TORCH = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYERS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d")
OTHERS = ("LayerNorm", "GroupNorm", "RMSNorm", "LocalResponseNorm")


def to_array(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    return value.view(torch.int16).numpy().view(DTYPES["BF16"]) if value.dtype == torch.bfloat16 else value.numpy()


def to_float(value: Any) -> Any:
    """In the type that halves are computed in; copied, since torch writes statistics in place."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().float() if value.dtype in (torch.float16, torch.bfloat16) else value.detach().clone()


def arguments(convert: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(convert(value) for value in args), {name: convert(value) for name, value in keywords.items()}


def same(got: Array | None, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    assert got is not None
    assert got.shape == tuple(wanted.shape)
    np.testing.assert_array_equal(np.asarray(got, np.float64), np.asarray(to_array(wanted.to(dtype)), np.float64))


@pytest.mark.parametrize("dtype", DTYPES_OF_TORCH, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_functionals(name: str, dtype: torch.dtype) -> None:
    count = 0
    for x, args, keywords in torch_samples.of_functional(name, dtype):
        theirs, their_keywords = arguments(to_float, args, keywords)
        wanted = getattr(F, name)(to_float(x), *theirs, **their_keywords)
        ours, our_keywords = arguments(to_array, args, keywords)
        if not 0 <= keywords.get("momentum", 0) <= 1:  # which torch takes, and the service refuses
            with pytest.raises(InvalidRequestError, match="momentum is in"):
                getattr(operators, name)(to_array(x), *ours, **our_keywords)
            continue
        got = getattr(operators, name)(to_array(x), *ours, **our_keywords)
        same(got.output, wanted, dtype)
        if got.running_mean is not None:
            same(got.running_mean, theirs[0] if theirs else their_keywords["running_mean"], dtype)
            same(got.running_var, theirs[1] if theirs else their_keywords["running_var"], dtype)
        count += 1
    assert count


@pytest.mark.parametrize("name", NAMES)
def test_what_functionals_refuse(name: str) -> None:
    for x, args, keywords, kind, text in torch_samples.refused_by_functional(name):
        with pytest.raises(kind):
            getattr(F, name)(x, *args, **keywords)
        ours, our_keywords = arguments(to_array, args, keywords)
        with pytest.raises(InvalidRequestError, match=text):
            getattr(operators, name)(to_array(x), *ours, **our_keywords)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_with_statistics(name: str, dtype: torch.dtype, training: bool) -> None:
    count = 0
    operator = operators.batch_norm if name.startswith("Batch") else operators.instance_norm
    for layer, x in torch_samples.of_module(name, dtype, training):
        if isinstance(layer, torch.nn.modules.lazy.LazyModuleMixin):
            continue
        state = {key: to_array(value.clone()) for key, value in layer.state_dict().items()}
        mean, var, weight, bias = (state.get(key) for key in ("running_mean", "running_var", "weight", "bias"))
        by_input = training or mean is None
        wanted = layer(x)
        batched = x if x.ndim > wanted.ndim - 1 and _is_batched(name, x) else x[None]
        momentum = layer.momentum if layer.momentum is not None else (1.0 if name.startswith("Batch") else 0.0)
        got = operator(to_array(batched), mean, var, weight, bias, by_input, momentum, layer.eps)
        same(got.output.reshape(tuple(wanted.shape)), wanted, dtype)
        if got.running_mean is not None:
            same(got.running_mean, layer.running_mean, dtype)
            same(got.running_var, layer.running_var, dtype)
        count += 1
    assert count


def _is_batched(name: str, x: torch.Tensor) -> bool:
    return name.startswith("Batch") or x.ndim == int(name[-2]) + 2


@pytest.mark.parametrize("name", OTHERS)
def test_layers_without(name: str) -> None:
    count = 0
    for layer, x in torch_samples.of_module(name, torch.float32, training=True):
        if name == "LocalResponseNorm":
            got = operators.local_response_norm(to_array(x), layer.size, layer.alpha, layer.beta, layer.k)
        else:
            weight, bias = (to_array(getattr(layer, key, None)) for key in ("weight", "bias"))
            first = layer.num_groups if name == "GroupNorm" else layer.normalized_shape
            given = (first, weight) if name == "RMSNorm" else (first, weight, bias)
            got = getattr(operators, {"LayerNorm": "layer_norm", "GroupNorm": "group_norm", "RMSNorm": "rms_norm"}[name])(
                to_array(x), *given, eps=layer.eps
            )
        same(got.output, layer(x), torch.float32)
        count += 1
    assert count
