"""The same networks in every opset that a batch norm of today has had: folded, exact in float64, and run by onnxruntime.

A row is a function of a Draft; where operators have moved an attribute to an input, it asks the draft for its opset.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from normserve_models import prepare, runtime
from normserve_models.testing import Draft, folded, operators_of

OPSETS = range(9, 27)  # 26 is the newest that onnxruntime 1.31 takes


@dataclass(frozen=True)
class Row:
    """A network.

    Attributes:
        build: Adds it to a draft, and gives its output.
        goes: What is gone from the graph when it is folded, other than the batch norms.
        since: The first opset that has its operators.
    """

    build: Callable[[Draft], str]
    goes: tuple[str, ...] = ()
    since: int = OPSETS[0]


def axes(draft: Draft, operator: str, x: str, values: list[int], since: int = 13, **attributes) -> str:
    """Add an operator whose `axes` are an attribute, and from an opset on an input."""
    if draft.opset < since:
        return draft.node(operator, x, axes=values, **attributes)
    return draft.node(operator, x, draft.constant(values, dtype=np.int64), **attributes)


def pad(draft: Draft, x: str, pads: list[int]) -> str:
    if draft.opset < 11:
        return draft.node("Pad", x, pads=pads)
    return draft.node("Pad", x, draft.constant(pads, dtype=np.int64))


def dropout(draft: Draft, x: str) -> str:
    if draft.opset < 12:
        return draft.node("Dropout", x, ratio=0.3)
    return draft.node("Dropout", x, draft.constant(0.3))


def clip(draft: Draft, x: str) -> str:
    if draft.opset < 11:
        return draft.node("Clip", x, min=0.0, max=6.0)
    return draft.node("Clip", x, draft.constant(0.0), draft.constant(6.0))


def conv(draft: Draft, x: str | None = None, channels: int = 3, **attributes) -> str:
    x = x or draft.input("batch", channels, 6, 6, name="image")
    return draft.node("Conv", x, draft.drawn(4, channels, 3, 3), draft.drawn(4), **attributes)


def dense(draft: Draft) -> str:
    return draft.node("MatMul", draft.input("batch", 3, name="x"), draft.drawn(3, 4))


def two_behind_another(draft: Draft) -> str:
    y = clip(draft, draft.norm(conv(draft), 4, momentum=0.5))
    return draft.norm(conv(draft, y, channels=4, group=1), 4, epsilon=0.1)


def transposed(draft: Draft) -> str:
    x = draft.input("batch", 4, 3, 3, name="image")
    return draft.norm(draft.node("ConvTranspose", x, draft.drawn(4, 2, 2, 2), group=2, strides=[2, 2]), 4)


def gemm(draft: Draft) -> str:
    x = draft.input("batch", 3, name="x")
    return draft.norm(draft.node("Gemm", x, draft.drawn(4, 3), draft.drawn(4), transB=1, alpha=0.5, beta=2.0), 4)


def head(draft: Draft) -> str:
    """What stands behind the last batch norm of a classifier."""
    y = axes(draft, "ReduceMean", draft.norm(conv(draft), 4), [2, 3], since=18, keepdims=1)
    y = axes(draft, "Squeeze", dropout(draft, y), [2, 3])
    return axes(draft, "Unsqueeze", draft.node("Gemm", y, draft.drawn(4, 2), draft.drawn(2)), [1])


def pools(draft: Draft) -> str:
    y = draft.norm(conv(draft, pads=[1, 1, 1, 1]), 4)
    y = draft.node("MaxPool", y, kernel_shape=[2, 2], strides=[1, 1])
    y = draft.node("AveragePool", pad(draft, y, [0, 0, 1, 1, 0, 0, 1, 1]), kernel_shape=[3, 3], auto_pad="SAME_UPPER")
    return draft.node("GlobalAveragePool", y)


def frozen(draft: Draft) -> str:
    """A batch norm that an exporter has spelled out."""
    scale, shift = (draft.drawn(1, 4, 1, 1) for _ in range(2))
    return draft.norm(draft.node("Add", draft.node("Mul", conv(draft), scale), shift), 4)


ROWS = {
    "Conv": Row(lambda draft: draft.norm(conv(draft), 4)),
    "Conv, twice": Row(two_behind_another),
    "ConvTranspose": Row(transposed),
    "Gemm": Row(gemm),
    "MatMul": Row(lambda draft: draft.norm(dense(draft), 4), goes=("MatMul",)),
    "MatMul, Add": Row(lambda draft: draft.norm(draft.node("Add", dense(draft), draft.drawn(4)), 4), goes=("MatMul", "Add")),
    "two in a row": Row(lambda draft: draft.norm(draft.norm(conv(draft), 4), 4)),
    "in front of pools": Row(pools),
    "in front of a classifier": Row(head),
    "Conv, Dropout": Row(lambda draft: draft.norm(dropout(draft, conv(draft)), 4)),
    "Conv, Mul, Add": Row(frozen, goes=("Mul", "Add")),
    "Conv, Squeeze": Row(
        lambda draft: draft.norm(axes(draft, "Squeeze", draft.node("GlobalAveragePool", conv(draft)), [2, 3]), 4),
    ),
    "Pad, Conv": Row(
        lambda draft: conv(draft, pad(draft, draft.norm(draft.input("batch", 4, 6, 6), 4), [0] * 8), channels=4),
    ),
}


def cases():
    for name, row in ROWS.items():
        for opset in OPSETS:
            if opset >= row.since:
                yield pytest.param(row, opset, id=f"{name}-{opset}")


@pytest.mark.parametrize(("row", "opset"), list(cases()))
def test_it_folds_whole_and_exactly(tmp_path, row, opset) -> None:
    draft = Draft(opset)
    source = draft.output(row.build(draft))
    result, norms = folded(source)
    assert [norm.reason for norm in norms if not norm.folded] == []
    left = operators_of(result)
    assert not {"BatchNormalization", *row.goes} & set(left)
    assert len(left) <= len(operators_of(source)) - len(norms)
    onnx.save(source, tmp_path / "model.onnx")
    report = prepare.fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert report.left == 0
    assert [opset.version for opset in onnx.load(tmp_path / "folded.onnx").opset_import] == [opset]


@pytest.mark.parametrize("opset", [7, 8])
def test_a_file_of_an_older_opset_stays_as_it_is(tmp_path, opset) -> None:
    """Until opset 9, `spatial` could mean one value a place instead of one a channel."""
    draft = Draft(9)
    source = draft.output(draft.norm(conv(draft), 4))
    source.opset_import[0].version = opset
    onnx.save(source, tmp_path / "model.onnx")
    report = prepare.fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert [(norm.folded, norm.reason) for norm in report.norms] == [(False, "opset")]
    assert (tmp_path / "folded.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    runtime.session(tmp_path / "folded.onnx")
