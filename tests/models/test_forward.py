"""Batch norms that only what comes after them can take in."""

import itertools

import numpy as np
import pytest
from normserve_models import testing
from normserve_models.legality import Reason
from normserve_models.testing import Draft


def relu_and_norm(draft: Draft, channels: int = 4, *spatial: int | str, name: str | None = None) -> str:
    """What no map passes backward, and a batch norm behind it."""
    return draft.norm(draft.node("Relu", draft.input("batch", channels, *spatial)), channels, name=name)


CONVS = [
    dict(zip(("rank", "groups", "bias", "stride", "pads", "dilation"), combination, strict=True))
    for combination in itertools.product(
        (1, 2, 3), (1, 2, 4), (False, True), (1, 2), ("none", "zero", "uneven", "same"), (1, 2)
    )
    if combination[4:] != ("same", 2)  # onnxruntime does not run it
]


@pytest.mark.parametrize("case", CONVS, ids=lambda case: "-".join(map(str, case.values())))
def test_conv(case) -> None:
    rank, groups = case["rank"], case["groups"]
    draft = Draft()
    x = relu_and_norm(draft, 4, *[7] * rank)
    bias = [draft.drawn(8)] if case["bias"] else []
    sizes = {"strides": [case["stride"]] * rank, "dilations": [case["dilation"]] * rank}
    padding = {"none": {}, "zero": {"pads": [1] * 2 * rank}, "uneven": {"pads": [0] * rank + [2] * rank}}
    form = padding.get(case["pads"], {"auto_pad": "SAME_UPPER"})
    y = draft.node("Conv", x, draft.drawn(8, 4 // groups, *[2] * rank), *bias, group=groups, **sizes, **form)
    testing.all_fold(draft.output(y), "Relu", "Conv", *([] if case["pads"] == "none" else ["Add"]))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(4, 6, 1), (4, 4, 1), (4, 6, 2), (4, 4, 4)])
@pytest.mark.parametrize("form", [{}, {"strides": 2, "output_padding": 1}, {"strides": 2, "pads": 1, "dilations": 2}])
def test_conv_transpose(rank, inputs, outputs, groups, form) -> None:
    draft = Draft()
    x = relu_and_norm(draft, inputs, *[4] * rank)
    attributes = {name: [size] * (2 * rank if name == "pads" else rank) for name, size in form.items()}
    weight = draft.drawn(inputs, outputs // groups, *[3] * rank)
    y = draft.node("ConvTranspose", x, weight, draft.drawn(outputs), group=groups, **attributes)
    testing.all_fold(draft.output(y), "Relu", "ConvTranspose", "Add")


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (-1.5, 0.0)])
@pytest.mark.parametrize("bias", [None, (), (1,), (3,), (1, 3)])
def test_gemm(trans_b, alpha, beta, bias) -> None:
    draft = Draft()
    weight = draft.drawn(*((3, 4) if trans_b else (4, 3)))
    extra = [] if bias is None else [draft.drawn(*bias)]
    y = draft.node("Gemm", relu_and_norm(draft, 4), weight, *extra, transB=trans_b, alpha=alpha, beta=beta)
    testing.all_fold(draft.output(y), "Relu", "Gemm")


def test_gemm_of_a_transposed_input_takes_no_map_on_its_other_axis() -> None:
    draft = Draft()
    x = draft.norm(draft.node("Relu", draft.input(5, 4)), 4)
    _, [norm] = testing.folded(draft.output(draft.node("Gemm", x, draft.drawn(5, 3), transA=1)))
    assert norm.reason == Reason.AXIS


@pytest.mark.parametrize("bias", [False, True])
def test_matmul(bias) -> None:
    draft = Draft()
    y = draft.node("MatMul", relu_and_norm(draft, 4), draft.drawn(4, 3))
    y = draft.node("Add", y, draft.drawn(3)) if bias else y
    testing.all_fold(draft.output(y), "Relu", "Gemm", *(["Add"] if bias else []))


def test_matmul_of_rank_3_puts_what_it_gains_into_its_bias() -> None:
    draft = Draft()
    tokens = draft.node("Transpose", relu_and_norm(draft, 4, 5), perm=[0, 2, 1])
    y = draft.node("Add", draft.node("MatMul", tokens, draft.drawn(4, 3)), draft.drawn(3))
    testing.all_fold(draft.output(y), "Relu", "Transpose", "MatMul", "Add")


@pytest.mark.parametrize("bridge", ["Flatten", "Reshape", "Squeeze"])
def test_flattened_into_a_linear_layer(bridge) -> None:
    draft = Draft()
    spatial = (1, 1) if bridge == "Squeeze" else (3, 2)
    x = relu_and_norm(draft, 4, *spatial)
    extra = {"Flatten": [], "Reshape": [0, -1], "Squeeze": [2, 3]}[bridge]
    x = draft.node(bridge, x, *([draft.constant(extra, dtype=np.int64)] if extra else []))
    size = 4 if bridge == "Squeeze" else 24
    testing.all_fold(draft.output(draft.node("Gemm", x, draft.drawn(size, 3))), "Relu", bridge, "Gemm")


@pytest.mark.parametrize("mode", ["reflect", "edge", "constant"])
@pytest.mark.parametrize("opset", [10, 20])
def test_an_explicit_pad(mode, opset) -> None:
    draft = Draft(opset)
    x = relu_and_norm(draft, 4, 5, 5)
    pads = [0, 0, 1, 2, 0, 0, 1, 0]
    if opset < 11:
        x = draft.node("Pad", x, mode=mode, pads=pads, value=0.5)
    else:
        x = draft.node("Pad", x, draft.constant(pads, dtype=np.int64), draft.constant(0.5), mode=mode)
    y = draft.node("Conv", x, draft.drawn(3, 4, 3, 3))
    testing.all_fold(draft.output(y), "Relu", "Pad", "Conv", *(["Add"] if mode == "constant" else []))


def test_a_pad_of_named_axes() -> None:
    draft = Draft()
    axes = draft.constant([-1, 2], dtype=np.int64)
    pads = draft.constant([2, 0, 1, 1], dtype=np.int64)
    x = draft.node("Pad", relu_and_norm(draft, 4, 5, 5), pads, draft.constant(0.0), axes)
    testing.all_fold(draft.output(draft.node("Conv", x, draft.drawn(3, 4, 3, 3))), "Relu", "Pad", "Conv", "Add")


def test_padding_twice_over() -> None:
    """A field goes through another Pad, and through the padding of the layer itself."""
    draft = Draft()
    x = draft.node("Pad", relu_and_norm(draft, 4, 5, 5), draft.constant([0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int64))
    x = draft.node("Pad", x, draft.constant([0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int64), mode="edge")
    y = draft.node("Conv", x, draft.drawn(3, 4, 3, 3), pads=[1, 1, 1, 1])
    testing.all_fold(draft.output(y), "Relu", "Pad", "Pad", "Conv", "Add")


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "AveragePool", "counted", "ReduceMean", "ReduceMean-13"])
def test_a_mean_in_front_of_a_linear_layer(pool) -> None:
    draft = Draft(13 if pool.endswith("13") else 20)
    x = relu_and_norm(draft, 4, 6, 6)
    if pool == "counted":
        x = draft.node("AveragePool", x, kernel_shape=[3, 3], strides=[3, 3], pads=[1] * 4, count_include_pad=1)
    elif pool == "AveragePool":
        x = draft.node("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    elif pool == "GlobalAveragePool":
        x = draft.node("GlobalAveragePool", x)
    elif pool == "ReduceMean":
        x = draft.node("ReduceMean", x, draft.constant([2, 3], dtype=np.int64), keepdims=0)
    else:
        x = draft.node("ReduceMean", x, axes=[-2, -1])
    rows = {"GlobalAveragePool": 4, "AveragePool": 36, "counted": 16}.get(pool, 4)
    x = x if pool == "ReduceMean" else draft.node("Flatten", x)
    result = testing.all_fold(draft.output(draft.node("Gemm", x, draft.drawn(rows, 3))))
    assert testing.operators_of(result)[-1] == "Gemm"


def test_a_mean_over_the_channels_stops_it() -> None:
    draft = Draft()
    x = draft.node("ReduceMean", relu_and_norm(draft, 4, 5, 5), draft.constant([1], dtype=np.int64))
    _, [norm] = testing.folded(draft.output(draft.node("Conv", x, draft.drawn(3, 1, 1, 1))))
    assert norm.reason == Reason.AXIS


def positive(draft: Draft, x: str, channels: int) -> str:
    gamma, beta, mean, variance = (draft.constant(np.linspace(0.0, 2.0, channels) + step) for step in (0.0, 0.3, -0.4, 0.1))
    return draft.node("BatchNormalization", x, gamma, beta, mean, variance)


@pytest.mark.parametrize("pool", ["MaxPool", "GlobalMaxPool", "ReduceMax"])
def test_a_maximum_lets_scales_through_that_are_not_negative(pool) -> None:
    draft = Draft()
    x = positive(draft, draft.node("Relu", draft.input("batch", 4, 6, 6)), 4)
    if pool == "MaxPool":
        x = draft.node("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
    else:
        x = draft.node(pool, x) if pool == "GlobalMaxPool" else draft.node(pool, x, draft.constant([2, 3], dtype=np.int64))
    testing.all_fold(draft.output(draft.node("Conv", x, draft.drawn(3, 4, 1, 1))), "Relu", pool, "Conv")


def test_a_maximum_stops_a_negative_scale() -> None:
    draft = Draft()
    x = draft.node("MaxPool", relu_and_norm(draft, 4, 6, 6), kernel_shape=[2, 2])
    _, [norm] = testing.folded(draft.output(draft.node("Conv", x, draft.drawn(3, 4, 1, 1))))
    assert norm.reason == Reason.BLOCKED
    assert "negative scale" in (norm.detail or "")


@pytest.mark.parametrize("arithmetic", ["Add", "Sub", "Mul", "Div", "from"])
def test_arithmetic_on_the_way_becomes_part_of_the_map(arithmetic) -> None:
    draft = Draft()
    x = relu_and_norm(draft, 4, 5, 5)
    constant = draft.drawn(4, 1, 1)
    x = draft.node("Sub", constant, x) if arithmetic == "from" else draft.node(arithmetic, x, constant)
    testing.all_fold(draft.output(draft.node("Conv", x, draft.drawn(3, 4, 1, 1))), "Relu", "Conv")


def test_identity_dropout_and_resize_on_the_way() -> None:
    draft = Draft()
    x = draft.node("Dropout", draft.node("Identity", relu_and_norm(draft, 4, 5, 5)))
    x = draft.node("Resize", x, "", draft.constant([1.0, 1.0, 2.0, 2.0]), mode="linear")
    testing.all_fold(
        draft.output(draft.node("Conv", x, draft.drawn(3, 4, 1, 1))), "Relu", "Identity", "Dropout", "Resize", "Conv"
    )


def test_everything_that_reads_it_takes_it_in() -> None:
    draft = Draft()
    x = relu_and_norm(draft, 4, 5, 5)
    one, other = draft.node("Conv", x, draft.drawn(3, 4, 1, 1)), draft.node("Conv", x, draft.drawn(2, 4, 3, 3), pads=[1] * 4)
    testing.all_fold(draft.output(one, other), "Relu", "Conv", "Conv", "Add")


def test_other_readers_of_what_is_normalized_see_it_as_it_was() -> None:
    draft = Draft()
    relu = draft.node("Relu", draft.input("batch", 4, 5, 5))
    y = draft.node("Conv", draft.norm(relu, 4), draft.drawn(4, 4, 1, 1))
    testing.all_fold(draft.output(y, draft.node("Sigmoid", relu)), "Relu", "Conv", "Sigmoid")


def test_one_reader_that_does_not_take_it_keeps_it_all() -> None:
    draft = Draft()
    x = relu_and_norm(draft, 4, 5, 5, name="it")
    one, other = draft.node("Conv", x, draft.drawn(3, 4, 1, 1)), draft.node("Sigmoid", x, name="other")
    model = draft.output(one, other)
    result, [norm] = testing.folded(model)
    assert (norm.reason, "Sigmoid 'other' comes after it" in (norm.detail or "")) == (Reason.BLOCKED, True)
    assert result.graph.node == model.graph.node


def test_batch_norms_on_two_inputs_of_a_concat() -> None:
    draft = Draft()
    one = draft.norm(draft.node("Relu", draft.input("batch", 4, 5, 5)), 4)
    other = draft.norm(draft.node("Relu", draft.input("batch", 3, 5, 5)), 3)
    joined = draft.node("Concat", one, draft.input("batch", 2, 5, 5), other, axis=1)
    testing.all_fold(draft.output(draft.node("Conv", joined, draft.drawn(3, 9, 1, 1))), "Relu", "Relu", "Concat", "Conv")


def test_a_concat_of_what_is_padded_differently() -> None:
    draft = Draft()
    x = draft.node("Pad", relu_and_norm(draft, 4, 3, 3), draft.constant([0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int64))
    joined = draft.node("Concat", draft.input("batch", 2, 5, 5), x, axis=-3)
    testing.all_fold(draft.output(draft.node("Conv", joined, draft.drawn(3, 6, 3, 3))), "Relu", "Pad", "Concat", "Conv", "Add")


def test_two_ways_into_one_layer_are_not_taken() -> None:
    """Each step is planned on the constants as they were: a second one on the same node would undo the first."""
    draft = Draft()
    x = relu_and_norm(draft, 4, 5, 5)
    joined = draft.node("Concat", x, x, axis=1)
    _, [norm] = testing.folded(draft.output(draft.node("Conv", joined, draft.drawn(3, 8, 1, 1))))
    assert (norm.folded, norm.reason) == (False, Reason.BLOCKED)


def test_a_batch_norm_whose_readers_are_batch_norms() -> None:
    draft = Draft()
    x = relu_and_norm(draft, 4, 5, 5, name="first")
    one, other = (draft.node("Sigmoid", draft.norm(x, 4)) for _ in range(2))
    result, norms = testing.folded(draft.output(one, other))
    assert [norm.folded for norm in norms] == [True, False, False]
    assert testing.operators_of(result) == ["Relu", *["BatchNormalization", "Sigmoid"] * 2]


def test_its_own_output_is_wanted() -> None:
    draft = Draft()
    x = relu_and_norm(draft, 4, 5, 5)
    _, [norm] = testing.folded(draft.output(x, draft.node("Conv", x, draft.drawn(3, 4, 1, 1))))
    assert norm.reason == Reason.GRAPH_OUTPUT


@pytest.mark.parametrize("layer", ["Conv", "Pad", "AveragePool"])
def test_zero_padding_around_a_free_size(layer) -> None:
    draft = Draft()
    x = relu_and_norm(draft, 4, "height", 5)
    if layer == "Pad":
        x = draft.node("Pad", x, draft.constant([0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int64))
    if layer == "AveragePool":
        x = draft.node("AveragePool", x, kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1)
    y = draft.node("Conv", x, draft.drawn(3, 4, 3, 3), pads=[int(layer == "Conv")] * 4)
    _, [norm] = testing.folded(draft.output(y))
    assert norm.reason == Reason.DYNAMIC_PADDING


def test_no_padding_around_a_free_size_is_no_matter() -> None:
    draft = Draft()
    y = draft.node("Conv", relu_and_norm(draft, 4, "height", "width"), draft.drawn(3, 4, 2, 2))
    testing.all_fold(draft.output(y), "Relu", "Conv")


def test_a_map_that_is_larger_than_what_it_saves() -> None:
    draft = Draft()
    x = relu_and_norm(draft, 2, 64, 64)
    model = draft.output(draft.node("Conv", x, draft.drawn(16, 2, 3, 3), pads=[1] * 4, name="wide"))
    _, [norm] = testing.folded(model)
    assert norm.reason == Reason.COST
    assert "Conv 'wide'" in (norm.detail or "")


def test_what_a_weight_of_half_precision_cannot_hold() -> None:
    draft = Draft(dtype=np.float16)
    relu = draft.node("Relu", draft.input("batch", 2, 5, 5))
    gamma, beta, mean = (draft.constant(np.full(2, value)) for value in (300.0, 0.0, 0.0))
    x = draft.node("BatchNormalization", relu, gamma, beta, mean, draft.constant(np.full(2, 1e-6)), epsilon=0.0)
    _, [norm] = testing.folded(draft.output(draft.node("Conv", x, draft.constant(np.full((3, 2, 1, 1), 9.0)))))
    assert norm.reason == Reason.OVERFLOW


@pytest.mark.parametrize("static", [True, False])
def test_a_batch_that_moves_stops_a_field(static) -> None:
    draft = Draft()
    relu = draft.node("Relu", draft.input(2 if static else "batch", 4, 5))
    x = draft.node("Pad", draft.norm(relu, 4), draft.constant([0, 0, 1, 0, 0, 1], dtype=np.int64))
    y = draft.node("Conv", draft.node("Transpose", x, perm=[2, 1, 0]), draft.drawn(3, 4, 1))
    _, [norm] = testing.folded(draft.output(y))
    assert norm.reason == Reason.AXIS


def test_channels_in_the_place_of_the_batch() -> None:
    draft = Draft()
    x = draft.norm(draft.node("Relu", draft.input(2, 4, 5)), 4)
    x = draft.node("Transpose", x, perm=[1, 0, 2])
    x = draft.node("AveragePool", x, kernel_shape=[3], pads=[1, 1], count_include_pad=1)
    _, [norm] = testing.folded(draft.output(draft.node("Conv", x, draft.drawn(3, 2, 1))))
    assert norm.reason == Reason.AXIS
