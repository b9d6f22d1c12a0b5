"""Backward through operators that move values, mix places, or do arithmetic with constants."""

import numpy as np
import pytest
from normserve_models import testing
from normserve_models.legality import Reason
from normserve_models.rules.shape import follow
from normserve_models.testing import Draft


def ints(draft: Draft, *values: int) -> str:
    return draft.constant(list(values), dtype=np.int64)


def conv(draft: Draft, *spatial: int) -> str:
    return draft.node("Conv", draft.input("batch", 3, *spatial), draft.drawn(4, 3, *[1] * len(spatial)))


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_over_tokens_through_a_transpose(bias) -> None:
    draft = Draft()
    y = draft.node("MatMul", draft.input("batch", 5, 3), draft.drawn(3, 4))
    y = draft.node("Add", y, draft.drawn(4)) if bias else y
    testing.all_fold(draft.output(draft.norm(draft.node("Transpose", y, perm=[0, 2, 1]), 4)), "MatMul", "Add", "Transpose")


def test_a_linear_layer_over_tokens_of_as_many_channels_as_places_is_not_mixed_up() -> None:
    """Linear gives [N, L, C] and BatchNorm1d takes axis 1, which is L: with L = C the lengths cannot tell."""
    draft = Draft()
    y = draft.node("MatMul", draft.input("batch", 4, 3), draft.drawn(3, 4))
    model = draft.output(draft.node("Relu", draft.norm(y, 4)))
    result, [norm] = testing.folded(model)
    assert norm.reason == Reason.AXIS
    assert result.graph.node == model.graph.node


@pytest.mark.parametrize(("shape", "rank"), [((-1, 4), 2), ((0, 4, 1, 1), 4), ((-1, 4, 1), 3)])
def test_a_reshape_that_keeps_the_channels(shape, rank) -> None:
    draft = Draft()
    y = draft.node("Gemm", draft.input("batch", 3), draft.drawn(3, 4))
    testing.all_fold(draft.output(draft.norm(draft.node("Reshape", y, ints(draft, *shape)), 4)), "Gemm", "Reshape")


def test_rows_of_tokens() -> None:
    """LeViT's Linear with a batch norm: [N, L, C] -> [N L, C] -> BN -> [N, L, C]."""
    draft = Draft()
    y = draft.node("MatMul", draft.input("batch", 5, 3), draft.drawn(3, 4))
    y = draft.norm(draft.node("Reshape", y, ints(draft, -1, 4)), 4)
    testing.all_fold(draft.output(draft.node("Reshape", y, ints(draft, -1, 5, 4))), "MatMul", "Add", "Reshape", "Reshape")


@pytest.mark.parametrize("shape", [(0, 4, 6), (0, 4, 2, 3)])
def test_a_linear_layer_that_gives_images(shape) -> None:
    """Each channel of the batch norm is several columns of the weight, as in a generator."""
    draft = Draft()
    y = draft.node("Gemm", draft.input("batch", 3), draft.drawn(3, 24))
    testing.all_fold(draft.output(draft.norm(draft.node("Reshape", y, ints(draft, *shape)), 4)), "Gemm", "Reshape")


def test_a_reshape_that_splits_the_channels() -> None:
    draft = Draft()
    y = draft.node("Reshape", conv(draft, 2, 2), ints(draft, 0, 16))
    _, [norm] = testing.folded(draft.output(draft.node("Relu", draft.norm(y, 16))))
    assert norm.reason == Reason.AXIS


@pytest.mark.parametrize(
    ("axis", "channels", "before", "after", "found"),
    [
        (1, 4, ["n", 4, 2, 3], ["n", 24], (1, 1, 6)),
        (1, 24, ["n", 24], ["n", 4, 6], None),
        (2, 4, ["n", 5, 4], ["m", 4], (1, 1, 1)),
        (2, 3, ["n", 4, 3], ["n", 12], (1, 4, 1)),
        (2, 3, ["n", 2, 3, 5], ["n", 30], (1, 2, 5)),
        (1, 4, ["n", 4, "h", "w"], ["n", 4, "hw"], (1, 1, 1)),
        (1, 4, ["n", 4, 6], ["other", 24], (1, 1, 6)),
        (1, 4, ["n", 4, "h"], ["other", 24], None),
        (1, 4, [None, 4, 6], [None, 24], (1, 1, 6)),
        (1, 4, ["n", 4, 1, 1], ["n", 4], (1, 1, 1)),
        (0, 4, [4, 6], [4, 2, 3], (0, 1, 1)),
        (1, 4, [2, 4, 6], [8, 6], (0, 2, 1)),
        (1, 4, ["n", 4, 6], ["n", 2, 2, 6], None),
    ],
)
def test_where_channels_are_after_a_reshape(axis, channels, before, after, found) -> None:
    assert follow(axis, channels, before, after) == found


@pytest.mark.parametrize(
    "padding", [{}, {"pads": [1] * 4}, {"pads": [1] * 4, "count_include_pad": 1}, {"auto_pad": "SAME_LOWER"}]
)
def test_average_pooling(padding) -> None:
    """Where padded zeros are counted no shift reaches them: it stays behind the pool, and only the scale goes on."""
    draft = Draft()
    y = draft.node("AveragePool", conv(draft, 6, 6), kernel_shape=[3, 3], strides=[2, 2], **padding)
    counted = ["Add"] if "count_include_pad" in padding else []
    testing.all_fold(draft.output(draft.norm(y, 4)), "Conv", "AveragePool", *counted)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_average_pooling(rank) -> None:
    draft = Draft()
    y = draft.node("GlobalAveragePool", conv(draft, *[4] * rank))
    testing.all_fold(draft.output(draft.norm(y, 4)), "Conv", "GlobalAveragePool")


def test_a_mean_that_drops_its_axes() -> None:
    draft = Draft()
    y = draft.node("ReduceMean", conv(draft, 4, 5), ints(draft, 2, 3), keepdims=0)
    testing.all_fold(draft.output(draft.norm(y, 4)), "Conv", "ReduceMean")


def positive(draft: Draft, x: str) -> str:
    gamma, beta, mean, variance = (draft.constant(np.linspace(0.0, 2.0, 4) + step) for step in (0.0, 0.3, -0.4, 0.1))
    return draft.node("BatchNormalization", x, gamma, beta, mean, variance)


def test_max_pooling_lets_scales_through_that_are_not_negative() -> None:
    draft = Draft()
    pooled = draft.node("MaxPool", conv(draft, 6, 6), kernel_shape=[3, 3], pads=[1] * 4)
    testing.all_fold(draft.output(positive(draft, pooled)), "Conv", "MaxPool")
    draft = Draft()
    pooled = draft.node("MaxPool", conv(draft, 6, 6), kernel_shape=[3, 3], pads=[1] * 4)
    _, [norm] = testing.folded(draft.output(draft.norm(pooled, 4)))
    assert norm.reason == Reason.BLOCKED


def test_a_pool_whose_indices_are_wanted() -> None:
    draft = Draft()
    pooled = draft.node("MaxPool", conv(draft, 6, 6), kernel_shape=[3, 3], name="pool", outputs=2)
    model = draft.output(draft.node("Relu", positive(draft, pooled)))
    _, [norm] = testing.folded(model)
    assert norm.folded  # nobody reads the indices
    draft = Draft()
    pooled = draft.node("MaxPool", conv(draft, 6, 6), kernel_shape=[3, 3], name="pool", outputs=2)
    kept = draft.node("Cast", "pool.y1", to=1)
    _, [norm] = testing.folded(draft.output(draft.node("Relu", positive(draft, pooled)), kept))
    assert norm.reason == Reason.BLOCKED


@pytest.mark.parametrize("opset", [11, 13, 20])
def test_dropout_and_identity(opset) -> None:
    draft = Draft(opset)
    y = draft.node("Identity", draft.node("Dropout", conv(draft, 4, 4)))
    testing.all_fold(draft.output(draft.norm(y, 4)), "Conv", "Dropout", "Identity")


def test_dropout_that_trains() -> None:
    draft = Draft()
    training = draft.constant(True, dtype=np.bool_)
    y = draft.node("Dropout", conv(draft, 4, 4), draft.constant(0.5), training)
    model = draft.output(draft.node("Relu", draft.norm(y, 4)))
    from normserve_models.fold import fold
    from onnx_ir import from_proto

    [norm] = fold(from_proto(model))  # random: nothing to compare
    assert norm.reason == Reason.BLOCKED


def test_a_quotient_of_a_constant_is_no_affine_map() -> None:
    draft = Draft()
    y = draft.node("Div", draft.drawn(4, 1, 1), conv(draft, 4, 4), name="quotient")
    _, [norm] = testing.folded(draft.output(draft.node("Relu", draft.norm(y, 4))))
    assert (norm.reason, "'quotient' divides by it" in (norm.detail or "")) == (Reason.BLOCKED, True)
    draft = Draft()
    y = draft.node("Add", draft.node("Div", draft.drawn(4, 1, 1), conv(draft, 4, 4)), draft.drawn(4, 1, 1))
    assert testing.folded(draft.output(y))[1] == []


def test_channels_between_other_axes_are_flattened() -> None:
    """[N, 2, C, 5] -> [N, 2 C 5]: each scale comes 5 times in a row, and that row twice."""
    draft = Draft()
    x = draft.norm(draft.node("Relu", draft.input("batch", 3, 2, 5)), 3)
    rows = draft.node("Reshape", draft.node("Transpose", x, perm=[0, 2, 1, 3]), ints(draft, 0, 30))
    testing.all_fold(draft.output(draft.node("Gemm", rows, draft.drawn(30, 4))), "Relu", "Transpose", "Reshape", "Gemm")


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_a_reflection_is_made_of_what_is_there(mode) -> None:
    draft = Draft()
    y = draft.node("Pad", conv(draft, 5, 5), ints(draft, 0, 0, 1, 1, 0, 0, 1, 1), mode=mode)
    testing.all_fold(draft.output(draft.norm(y, 4)), "Conv", "Pad")


def test_a_border_of_zeros_is_not() -> None:
    draft = Draft()
    y = draft.node("Pad", conv(draft, 5, 5), ints(draft, 0, 0, 1, 1, 0, 0, 1, 1))
    _, [norm] = testing.folded(draft.output(draft.node("Relu", draft.norm(y, 4))))
    assert norm.reason == Reason.BLOCKED


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_interpolation(mode) -> None:
    draft = Draft()
    y = draft.node("Resize", conv(draft, 5, 5), "", draft.constant([1.0, 1.0, 2.0, 1.5]), mode=mode)
    testing.all_fold(draft.output(draft.norm(y, 4)), "Conv", "Resize")


@pytest.mark.parametrize("operators", [("Mul", "Add"), ("Sub", "Div"), ("Add", "Mul", "Sub")])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)])
def test_a_frozen_batch_norm(operators, shape) -> None:
    """A batch norm written as arithmetic folds like one, without being one."""
    draft = Draft()
    y = conv(draft, 4, 4)
    for operator in operators:
        y = draft.node(operator, y, draft.drawn(*shape), name=operator)
    result, [norm] = testing.folded(draft.output(draft.node("Relu", y)))
    assert (norm.name, norm.folded) == (operators[0], True)
    assert testing.operators_of(result) == ["Conv", "Relu"]


def test_a_frozen_batch_norm_whose_constants_are_computed() -> None:
    """As torchvision writes it: scale = w rsqrt(v + eps), shift = b - m scale, all in the graph."""
    draft = Draft()
    w, b, m, v = (draft.constant(np.random.default_rng(seed).uniform(0.5, 2.0, (1, 4, 1, 1))) for seed in range(4))
    root = draft.node("Sqrt", draft.node("Add", v, draft.constant(1e-5)))
    scale = draft.node("Mul", w, draft.node("Reciprocal", root))
    shift = draft.node("Sub", b, draft.node("Mul", m, scale))
    y = draft.node("Add", draft.node("Mul", conv(draft, 4, 4), scale), shift)
    testing.all_fold(draft.output(draft.node("Relu", y)), "Conv", "Relu")


def test_a_frozen_batch_norm_forward_over_padding_leaves_its_shift() -> None:
    draft = Draft()
    x = draft.node("Div", draft.node("Sub", draft.input("batch", 3, "h", 64), draft.drawn(3, 1, 1)), draft.drawn(3, 1, 1))
    model = draft.output(draft.node("Conv", x, draft.drawn(8, 3, 3, 3), pads=[1] * 4))
    result = testing.all_fold(model, "Add", "Conv")
    assert len(result.graph.initializer) == 3


@pytest.mark.parametrize("operators", [("Mul",), ("Add", "Sub"), ("Mul", "Div")])
def test_arithmetic_that_is_no_batch_norm_is_left_alone(operators) -> None:
    draft = Draft()
    y = conv(draft, 4, 4)
    for operator in operators:
        y = draft.node(operator, y, draft.drawn(4, 1, 1))
    model = draft.output(y)
    result, norms = testing.folded(model)
    assert not norms
    assert result.graph.node == model.graph.node


def test_scalars_are_no_batch_norm() -> None:
    draft = Draft()
    y = draft.node("Add", draft.node("Mul", conv(draft, 4, 4), draft.constant(2.0)), draft.constant(1.0))
    _, norms = testing.folded(draft.output(y))
    assert not norms


def test_a_parametrized_weight_is_computed_in_float64() -> None:
    """torch's weight_norm: W = g v / |v|."""
    draft = Draft()
    v, g = draft.drawn(4, 3, 1, 1), draft.drawn(4, 1, 1, 1)
    length = draft.node("ReduceL2", v, ints(draft, 1, 2, 3))
    weight = draft.node("Mul", g, draft.node("Div", v, length))
    y = draft.node("Conv", draft.input("batch", 3, 4, 4), weight)
    testing.all_fold(draft.output(draft.norm(y, 4)), "Conv")
