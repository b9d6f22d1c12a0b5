"""The heavy operators of ONNX in float64 on numpy, for the reference that every fold is judged against.

A convolution is a sum over the offsets of its window, one matrix product each; pooling is a maximum or a sum over the
same offsets. Written from ONNX's operator descriptions, opset 9 on. onnx's own reference has these operators too, at a
hundred times the cost, and serves for every form that a kernel here leaves to it by returning None.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import onnx_ir as ir

Array = npt.NDArray[Any]


def at(array: Array, index: Iterable[Any]) -> Array:
    """Return a view of the last axes of `array`."""
    where: tuple[Any, ...] = (..., *index)
    view: Array = array[where]
    return view


@dataclass(frozen=True)
class Window:
    """How a window slides over the spatial axes.

    Attributes:
        kernel, strides, dilations: One entry a spatial axis.
        before, after: The padding on both ends of each axis.
        sizes: How many positions the window takes on each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, node: ir.Node, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
        """Read a window from the attributes of Conv or of a pool over inputs of size `spatial`."""
        rank = len(spatial)
        strides = tuple(node.attributes.get_ints("strides", [1] * rank))
        dilations = tuple(node.attributes.get_ints("dilations", [1] * rank))
        extents = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        before, after = _padding(node, spatial, strides, extents)
        padded = map(sum, zip(spatial, before, after, strict=True))
        sizes = tuple((size - extent) // stride + 1 for size, extent, stride in zip(padded, extents, strides, strict=True))
        return cls(tuple(kernel), strides, dilations, before, after, sizes)

    def pad(self, x: Array, fill: float) -> Array:
        """Return `x` [N, C, ...] with its spatial axes padded."""
        return np.pad(x, [(0, 0), (0, 0), *zip(self.before, self.after, strict=True)], constant_values=fill)

    def views(self, padded: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Yield each offset of the window with what `padded` holds there, [N, C, *sizes]."""
        for offset in itertools.product(*map(range, self.kernel)):
            yield offset, at(padded, self.places(offset))

    def places(self, offset: Sequence[int]) -> list[slice]:
        """Return where the positions of the window lie at one offset, a slice a spatial axis."""
        starts = [index * dilation for index, dilation in zip(offset, self.dilations, strict=True)]
        return [
            slice(start, start + stride * (size - 1) + 1, stride)
            for start, stride, size in zip(starts, self.strides, self.sizes, strict=True)
        ]


def _padding(
    node: ir.Node, spatial: Sequence[int], strides: Sequence[int], extents: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = len(spatial)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if not auto.startswith("SAME"):
        pads = node.attributes.get_ints("pads", [0] * 2 * rank) if auto == "NOTSET" else [0] * 2 * rank
        return tuple(pads[:rank]), tuple(pads[rank:])
    totals = [
        max((-(-size // stride) - 1) * stride + extent - size, 0)
        for size, stride, extent in zip(spatial, strides, extents, strict=True)
    ]
    small, large = tuple(total // 2 for total in totals), tuple(-(-total // 2) for total in totals)
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def conv(node: ir.Node, inputs: list[Array | None]) -> Array:
    """Conv: x [N, C, ...], weight [M, C/groups, ...], bias [M] or None -> [N, M, ...]."""
    x, weight, bias = _three(inputs)
    groups = node.attributes.get_int("group", 1)
    window = Window.of(node, x.shape[2:], weight.shape[2:])
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    split = weight.reshape(groups, rows, columns, *weight.shape[2:])
    total = np.zeros((len(x), groups, rows, int(np.prod(window.sizes))))
    for offset, view in window.views(window.pad(x, 0.0)):
        total += at(split, offset) @ view.reshape(len(x), groups, columns, -1)
    return _biased(total.reshape(len(x), weight.shape[0], *window.sizes), bias)


def conv_transpose(node: ir.Node, inputs: list[Array | None]) -> Array | None:
    """ConvTranspose: x [N, C, ...], weight [C, M/groups, ...], bias [M] or None -> [N, M, ...]."""
    if "output_shape" in node.attributes or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    x, weight, bias = _three(inputs)
    groups, rank = node.attributes.get_int("group", 1), x.ndim - 2
    strides = tuple(node.attributes.get_ints("strides", [1] * rank))
    dilations = tuple(node.attributes.get_ints("dilations", [1] * rank))
    none = (0,) * rank
    window = Window(weight.shape[2:], strides, dilations, none, none, x.shape[2:])
    pads = node.attributes.get_ints("pads", [0] * 2 * rank)
    extra = node.attributes.get_ints("output_padding", [0] * rank)
    extents = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    full = [s * (size - 1) + e + p for s, size, e, p in zip(strides, x.shape[2:], extents, extra, strict=True)]
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).swapaxes(1, 2)
    total = np.zeros((len(x), weight.shape[1] * groups, *full))
    flat = x.reshape(len(x), groups, weight.shape[0] // groups, -1)
    for offset in itertools.product(*map(range, weight.shape[2:])):
        part = (at(split, offset) @ flat).reshape(len(x), -1, *x.shape[2:])
        at(total, window.places(offset))[...] += part
    inner = [slice(pads[axis], full[axis] - pads[rank + axis]) for axis in range(rank)]
    return _biased(at(total, inner), bias)


def _three(inputs: list[Array | None]) -> tuple[Array, Array, Array | None]:
    x, weight, bias = [*inputs, None][:3]
    assert x is not None  # noqa: S101 - neither is optional in ONNX
    assert weight is not None  # noqa: S101
    return x, weight, bias


def _biased(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def max_pool(node: ir.Node, inputs: list[Array | None]) -> Array | None:
    """MaxPool: x [N, C, ...] -> [N, C, ...]."""
    x = inputs[0]
    if node.attributes.get_int("ceil_mode", 0) or x is None or x.dtype != np.float64:
        return None
    window = Window.of(node, x.shape[2:], node.attributes.get_ints("kernel_shape"))
    total = np.full((*x.shape[:2], *window.sizes), -np.inf)
    for _, view in window.views(window.pad(x, -np.inf)):
        np.maximum(total, view, out=total)
    return total


def average_pool(node: ir.Node, inputs: list[Array | None]) -> Array | None:
    """AveragePool: x [N, C, ...] -> [N, C, ...]."""
    x = inputs[0]
    if node.attributes.get_int("ceil_mode", 0) or x is None:
        return None
    window = Window.of(node, x.shape[2:], node.attributes.get_ints("kernel_shape"))
    total = sum(view for _, view in window.views(window.pad(x, 0.0)))
    if node.attributes.get_int("count_include_pad", 0):
        return np.asarray(total / np.prod(window.kernel))
    counted = window.pad(np.ones((1, 1, *x.shape[2:])), 0.0)
    return np.asarray(total / sum(view for _, view in window.views(counted)))


def batch_norm(node: ir.Node, inputs: list[Array | None]) -> Array | None:
    """BatchNormalization in inference: x [N, C, ...] -> the same shape."""
    x, *parameters = inputs
    if node.attributes.get_int("training_mode", 0) or x is None:
        return None
    shape = (-1, *[1] * (x.ndim - 2))
    gamma, beta, mean, variance = (parameter.reshape(shape) for parameter in parameters if parameter is not None)
    epsilon = node.attributes.get_float("epsilon", float(np.float32(1e-5)))
    return np.asarray((x - mean) / np.sqrt(variance + epsilon) * gamma + beta)


def dequantize_linear(node: ir.Node, inputs: list[Array | None]) -> Array | None:
    """DequantizeLinear: x of integers, scale and zero point [] or [C] along `axis` -> float64 of the shape of x."""
    x, scale, zero_point = _three(inputs)
    if scale.ndim > 1 or "block_size" in node.attributes:
        return None
    shape = _per_axis(node, x, scale)
    points = 0.0 if zero_point is None else zero_point.astype(np.float64).reshape(shape)
    return np.asarray((x.astype(np.float64) - points) * scale.reshape(shape))


def quantize_linear(node: ir.Node, inputs: list[Array | None]) -> Array | None:
    """QuantizeLinear to int8 or uint8: round(x / scale) half to even, plus the zero point, saturated."""
    x, scale, zero_point = _three(inputs)
    dtype = np.dtype(np.uint8) if zero_point is None else zero_point.dtype
    if scale.ndim > 1 or "block_size" in node.attributes or dtype not in {np.dtype(np.int8), np.dtype(np.uint8)}:
        return None
    shape = _per_axis(node, x, scale)
    points = 0.0 if zero_point is None else zero_point.astype(np.float64).reshape(shape)
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(x / scale.reshape(shape)) + points, limits.min, limits.max).astype(dtype))


def _per_axis(node: ir.Node, x: Array, scale: Array) -> tuple[int, ...]:
    axis = node.attributes.get_int("axis", 1)
    return tuple(-1 if scale.size > 1 and place == axis % x.ndim else 1 for place in range(x.ndim))


KERNELS: dict[str, Callable[[ir.Node, list[Array | None]], Array | None]] = {
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DequantizeLinear": dequantize_linear,
    "MaxPool": max_pool,
    "QuantizeLinear": quantize_linear,
}
