"""Random graphs of the operators that have rules: exact in float64, valid, and folding twice changes nothing."""

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from normserve_models import testing
from normserve_models.testing import Draft

SIZE = 6  # every value of the graph of images is [batch, 4, 6, 6], so that any two can meet


def ints(draft: Draft, *values: int) -> str:
    return draft.constant(list(values), dtype=np.int64)


def padded_conv(draft: Draft, x: str, **attributes) -> str:
    return draft.node("Conv", x, draft.drawn(4, 4, 3, 3), draft.drawn(4), pads=[1, 1, 1, 1], **attributes)


def reflected(draft: Draft, x: str, mode: str) -> str:
    padded = draft.node("Pad", x, ints(draft, 0, 0, 1, 1, 0, 0, 1, 1), mode=mode)
    return draft.node("Conv", padded, draft.drawn(4, 4, 3, 3))


def tokens(draft: Draft, x: str) -> str:
    rows = draft.node("Transpose", draft.node("Reshape", x, ints(draft, 0, 4, SIZE * SIZE)), perm=[0, 2, 1])
    rows = draft.node("MatMul", rows, draft.drawn(4, 4))
    return draft.node("Reshape", draft.node("Transpose", rows, perm=[0, 2, 1]), ints(draft, 0, 4, SIZE, SIZE))


def positive_norm(draft: Draft, x: str) -> str:
    gamma, beta, mean, variance = (draft.constant(np.linspace(0.0, 2.0, 4) + step) for step in (0.0, 0.3, -0.4, 0.1))
    return draft.node("BatchNormalization", x, gamma, beta, mean, variance)


def quantized(draft: Draft, x: str) -> str:
    integers = draft.constant(np.arange(-72, 72).reshape(4, 4, 3, 3), dtype=np.int8)
    weight = draft.node("DequantizeLinear", integers, draft.constant(np.linspace(0.01, 0.04, 4)), axis=0)
    return draft.node("Conv", x, weight, pads=[1, 1, 1, 1])


ONE: dict[str, Callable[[Draft, str], str]] = {
    "norm": lambda draft, x: draft.norm(x, 4, epsilon=1e-3),
    "positive norm": positive_norm,
    "relu": lambda draft, x: draft.node("Relu", x),
    "1x1": lambda draft, x: draft.node("Conv", x, draft.drawn(4, 4, 1, 1)),
    "3x3": padded_conv,
    "depthwise": lambda draft, x: draft.node("Conv", x, draft.drawn(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    "transposed": lambda draft, x: draft.node("ConvTranspose", x, draft.drawn(4, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    "quantized": quantized,
    "reflected": lambda draft, x: reflected(draft, x, "reflect"),
    "padded": lambda draft, x: reflected(draft, x, "constant"),
    "shift": lambda draft, x: draft.node("Add", x, draft.drawn(4, 1, 1)),
    "scale": lambda draft, x: draft.node("Mul", draft.drawn(1, 4, 1, 1), x),
    "from": lambda draft, x: draft.node("Sub", draft.drawn(4, 1, 1), x),
    "position": lambda draft, x: draft.node("Add", x, draft.drawn(6, 6)),
    "mean": lambda draft, x: draft.node("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4),
    "counted mean": lambda draft, x: draft.node("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    "maximum": lambda draft, x: draft.node("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4),
    "tokens": tokens,
    "identity": lambda draft, x: draft.node("Dropout", draft.node("Identity", x)),
}
TWO: dict[str, Callable[[Draft, str, str], str]] = {
    "sum": lambda draft, x, y: draft.node("Add", x, y),
    "difference": lambda draft, x, y: draft.node("Sub", x, y),
    "product": lambda draft, x, y: draft.node("Mul", x, y),
    "joined": lambda draft, x, y: draft.node("Conv", draft.node("Concat", x, y, axis=1), draft.drawn(4, 8, 1, 1)),
    "block": lambda draft, x, y: draft.node("Add", draft.norm(padded_conv(draft, x), 4), draft.norm(y, 4)),
}
STEPS = st.tuples(st.sampled_from([*ONE, *TWO, *["norm"] * 4]), st.integers(0, 3), st.integers(0, 3))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.lists(STEPS, min_size=2, max_size=12), st.integers(0, 1000), st.sampled_from([13, 17, 20]), st.booleans())
def test_graphs_of_images(steps, seed, opset, as_nodes) -> None:
    """Each step reads one or two of the last four values, so values are shared, skipped and joined."""
    draft = Draft(opset, seed=seed, as_nodes=as_nodes)
    values = [draft.input("batch", 4, SIZE, SIZE)]
    for operator, one, other in steps:
        x, y = (values[max(0, len(values) - 1 - back)] for back in (one, other))
        values.append(ONE[operator](draft, x) if operator in ONE else TWO[operator](draft, x, y))
    testing.folded(draft.output(draft.node("Neg", values[-1]), values[max(1, len(values) // 2)]))


ROWS = st.sampled_from(["gemm", "matmul", "norm", "norm", "add", "scale", "relu", "fork"])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(ROWS, min_size=1, max_size=10), st.integers(0, 1000))
def test_graphs_of_linear_layers(layers, seed) -> None:
    draft = Draft(seed=seed)
    y = draft.input("batch", 4)
    taps = []
    for layer in layers:
        if layer == "gemm":
            y = draft.node("Gemm", y, draft.drawn(4, 4), draft.drawn(1, 4), transB=seed % 2, alpha=0.5, beta=float(seed % 3))
        elif layer == "matmul":
            y = draft.node("MatMul", y, draft.drawn(4, 4))
        elif layer == "norm":
            y = draft.norm(y, 4)
        elif layer in {"add", "scale"}:
            y = draft.node("Add" if layer == "add" else "Mul", draft.drawn(4), y)
        elif layer == "relu":
            y = draft.node("Relu", y)
        else:
            taps.append(draft.node("Neg", y))
    testing.folded(draft.output(draft.node("Neg", y), *taps))
