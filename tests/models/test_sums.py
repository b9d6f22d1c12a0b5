"""Branches that meet: sums of layers, sums in front of a batch norm, and layers that become one."""

import numpy as np
import pytest
from normserve_models import testing
from normserve_models.legality import Reason
from normserve_models.testing import Draft


def test_both_terms_of_a_sum_take_the_scale_and_one_the_shift() -> None:
    draft = Draft()
    one = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(4, 3, 3, 3))
    other = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(4, 3, 3, 3), draft.drawn(4))
    result = testing.all_fold(draft.output(draft.norm(draft.node("Add", one, other), 4)), "Conv", "Conv", "Add")
    assert [len(node.input) for node in result.graph.node] == [3, 3, 2]


@pytest.mark.parametrize("sign", ["Sub", "Sum"])
def test_a_difference_and_a_sum_of_three(sign) -> None:
    draft = Draft()
    terms = [
        draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(4, 3, 3, 3)) for _ in range(3 if sign == "Sum" else 2)
    ]
    testing.all_fold(draft.output(draft.norm(draft.node(sign, *terms), 4)), *["Conv"] * len(terms), sign)


def test_a_sum_with_something_that_takes_no_scale() -> None:
    draft = Draft()
    one = draft.node("Conv", draft.input("batch", 4, 5, 5), draft.drawn(4, 4, 1, 1))
    other = draft.node("Relu", draft.input("batch", 4, 5, 5), name="other")
    model = draft.output(draft.node("Relu", draft.norm(draft.node("Add", one, other), 4)))
    result, [norm] = testing.folded(model)
    assert (norm.reason, "'other'" in (norm.detail or "")) == (Reason.BLOCKED, True)
    assert result.graph.node == model.graph.node


def test_a_sum_over_one_channel() -> None:
    """The channel of one term is spread over all: no scale per channel goes into it."""
    draft = Draft()
    one = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(4, 3, 1, 1))
    spread = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(1, 3, 1, 1))
    _, [norm] = testing.folded(draft.output(draft.node("Relu", draft.norm(draft.node("Add", one, spread), 4))))
    assert norm.reason == Reason.AXIS


def test_a_position_map_takes_scale_and_shift() -> None:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(4, 3, 1, 1))
    y = draft.node("Add", y, draft.drawn(1, 1, 5, 5))
    testing.all_fold(draft.output(draft.norm(y, 4)), "Conv", "Add")


def branch(draft: Draft, x: str, window: tuple[int, ...], *, channels: int = 4, groups: int = 1, stride: int = 1) -> str:
    """A Conv whose result is as large as its input at stride 1, and its batch norm."""
    pads = [(size - 1) // 2 for size in window]
    weight = draft.drawn(channels, channels // groups, *window)
    return draft.norm(draft.node("Conv", x, weight, pads=pads * 2, group=groups, strides=[stride] * len(window)), channels)


def total(draft: Draft, *terms: str) -> str:
    result, *others = terms
    for other in others:
        result = draft.node("Add", result, other)
    return result


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_repvgg(groups, rank) -> None:
    """3x3, 1x1 and identity, each with its batch norm (Ding et al. 2021): one layer."""
    draft = Draft()
    x = draft.node("Relu", draft.input("batch", 4, *[5] * rank))
    terms = branch(draft, x, (3,) * rank, groups=groups), branch(draft, x, (1,) * rank, groups=groups), draft.norm(x, 4)
    testing.all_fold(draft.output(draft.node("Relu", total(draft, *terms))), "Relu", "Conv", "Relu")


def test_repvgg_with_a_stride() -> None:
    draft = Draft()
    x = draft.input("batch", 4, 6, 6)
    terms = branch(draft, x, (3, 3), stride=2), branch(draft, x, (1, 1), stride=2)
    testing.all_fold(draft.output(total(draft, *terms)), "Conv")


def test_mobileone() -> None:
    """Several 3x3 branches, a 1x1 and identity, depthwise (Vasu et al. 2023): one layer."""
    draft = Draft()
    x = draft.node("Relu", draft.input("batch", 4, 6, 6))
    terms = [draft.norm(x, 4), branch(draft, x, (1, 1), groups=4), *(branch(draft, x, (3, 3), groups=4) for _ in range(4))]
    testing.all_fold(draft.output(total(draft, *terms)), "Relu", "Conv")


def test_kernels_of_one_row_and_one_column() -> None:
    """ACNet's skeleton (Ding et al. 2019)."""
    draft = Draft()
    x = draft.input("batch", 4, 6, 6)
    testing.all_fold(draft.output(total(draft, *(branch(draft, x, window) for window in [(1, 3), (3, 1), (3, 3)]))), "Conv")


def test_a_batch_norm_over_the_sum_of_a_layer_and_what_it_reads() -> None:
    """RepViT's: BN(BN(Conv(x)) + Conv(x) + x)."""
    draft = Draft()
    x = draft.node("Relu", draft.input("batch", 4, 6, 6))
    plain = draft.node("Conv", x, draft.drawn(4, 1, 1, 1), draft.drawn(4), group=4)
    testing.all_fold(draft.output(draft.norm(total(draft, branch(draft, x, (3, 3), groups=4), plain, x), 4)), "Relu", "Conv")


def test_a_difference_of_layers_that_read_the_same() -> None:
    """FastViT's mixer subtracts a batch norm."""
    draft = Draft()
    x = draft.node("Relu", draft.input("batch", 4, 6, 6))
    testing.all_fold(draft.output(draft.node("Sub", branch(draft, x, (3, 3), groups=4), draft.norm(x, 4))), "Relu", "Conv")


def test_a_layer_that_is_subtracted_takes_nothing_in() -> None:
    draft = Draft()
    x = draft.node("Relu", draft.input("batch", 4, 6, 6))
    result, norms = testing.folded(draft.output(draft.node("Sub", draft.norm(x, 4), branch(draft, x, (3, 3)))))
    assert [norm.folded for norm in norms] == [False, True]
    assert testing.operators_of(result) == ["Relu", "BatchNormalization", "Conv", "Sub"]


def test_a_result_of_one_place_that_is_spread_over_all_is_not_merged() -> None:
    draft = Draft()
    x = draft.input("batch", 4, 2, 2)
    spread = draft.node("Conv", x, draft.drawn(4, 4, 3, 3), pads=[1, 1, 0, 0])  # one place
    testing.all_fold(draft.output(draft.node("Add", branch(draft, x, (3, 3)), spread)), "Conv", "Conv", "Add")


def test_a_sum_of_three_with_a_fourth_that_reads_something_else() -> None:
    draft = Draft()
    x, z = draft.input("batch", 4, 6, 6), draft.input("batch", 4, 6, 6)
    terms = branch(draft, x, (3, 3)), z, branch(draft, x, (1, 1))
    testing.all_fold(draft.output(draft.node("Sum", *terms)), "Conv", "Sum")
    draft = Draft()
    x, z = draft.input("batch", 4, 6, 6), draft.input("batch", 4, 6, 6)
    testing.all_fold(draft.output(total(draft, z, branch(draft, x, (3, 3)), branch(draft, x, (1, 1)))), "Conv", "Add")


@pytest.mark.parametrize(
    "unlike",
    [
        {"pads": [0, 0, 2, 2]},  # the 1x1 is beside the middle
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"auto_pad": "SAME_UPPER"},
    ],
    ids=str,
)
def test_windows_that_do_not_lie_on_each_other(unlike) -> None:
    """What is merged is right, and what cannot be merged is left alone."""
    draft = Draft()
    x = draft.input("batch", 4, 6, 6)
    one = draft.norm(draft.node("Conv", x, draft.drawn(4, 4, 3, 3), **unlike), 4)
    testing.all_fold(draft.output(draft.node("Add", one, branch(draft, x, (1, 1)))))


def test_a_coarse_guest_does_not_go_into_a_fine_host() -> None:
    draft = Draft()
    x = draft.input("batch", 4, 6, 6)
    terms = branch(draft, x, (3, 3), groups=4), branch(draft, x, (1, 1))
    testing.all_fold(draft.output(total(draft, *terms)), "Conv", "Conv", "Add")


def test_a_sum_without_batch_norms_is_left_alone() -> None:
    draft = Draft()
    x = draft.input("batch", 4, 6, 6)
    one, other = (draft.node("Conv", x, draft.drawn(4, 4, 1, 1)) for _ in range(2))
    y = draft.node("Relu", draft.node("Add", one, other))
    far = draft.norm(draft.node("Conv", y, draft.drawn(4, 4, 1, 1)), 4)
    testing.all_fold(draft.output(far), "Conv", "Conv", "Add", "Relu", "Conv")


def test_a_term_that_is_wanted_elsewhere_stays() -> None:
    draft = Draft()
    x = draft.input("batch", 4, 6, 6)
    one, other = branch(draft, x, (3, 3)), branch(draft, x, (1, 1))
    model = draft.output(draft.node("Add", one, other), other)
    testing.all_fold(model, "Conv", "Conv", "Add")


def test_the_report_names_the_layer_that_is_left() -> None:
    draft = Draft()
    x = draft.node("Relu", draft.input("batch", 4, 6, 6))
    weights = draft.drawn(4, 4, 3, 3), draft.drawn(4, 4, 1, 1)
    host = draft.norm(draft.node("Conv", x, weights[0], pads=[1] * 4, name="host"), 4)
    guest = draft.norm(draft.node("Conv", x, weights[1], name="guest"), 4)
    _, norms = testing.folded(draft.output(total(draft, host, guest, draft.norm(x, 4, name="identity"))))
    assert [norm.into for norm in norms] == [["host"]] * 3
    assert all(norm.way for norm in norms)


def test_slices_of_the_map_go_to_the_inputs_of_a_concat() -> None:
    draft = Draft()
    x = draft.input("batch", 3, 6, 6)
    parts = [draft.node("Conv", x, draft.drawn(size, 3, 1, 1)) for size in (4, 2, 3)]
    pooled = draft.node("MaxPool", draft.node("AveragePool", parts[0], kernel_shape=[1, 1]), kernel_shape=[1, 1])
    gamma, beta, mean, variance = (draft.constant(np.linspace(0.1, 2.0, 9) + step) for step in (0.0, 0.3, -0.4, 0.1))
    joined = draft.node("Concat", pooled, draft.node("Identity", parts[1]), parts[2], axis=1)
    y = draft.node("BatchNormalization", joined, gamma, beta, mean, variance)
    testing.all_fold(draft.output(y), *["Conv"] * 3, "AveragePool", "MaxPool", "Identity", "Concat")


def test_a_concat_along_another_axis_gives_each_input_the_whole_map() -> None:
    draft = Draft()
    parts = [draft.node("Conv", draft.input("batch", 3, 6, 6), draft.drawn(4, 3, 1, 1)) for _ in range(2)]
    testing.all_fold(draft.output(draft.norm(draft.node("Concat", *parts, axis=2), 4)), "Conv", "Conv", "Concat")


def test_a_concat_forward_along_another_axis() -> None:
    draft = Draft()
    x = draft.norm(draft.node("Relu", draft.input("batch", 4, 6, 6)), 4)
    joined = draft.node("Concat", x, draft.input("batch", 4, 6, 6), axis=2)
    _, [norm] = testing.folded(draft.output(draft.node("Conv", joined, draft.drawn(3, 4, 1, 1))))
    assert norm.reason == Reason.AXIS
