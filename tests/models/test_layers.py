"""Which values of a folded file are compared, and how they are made visible."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from normserve_models import layers
from normserve_models.fold import fold
from normserve_models.layers import Layer
from normserve_models.testing import Draft


def changed(source: onnx.ModelProto, folded: onnx.ModelProto | None = None) -> list[Layer]:
    """The layers of `folded`, or of what our own fold makes of the source."""
    known = layers.names(ir.from_proto(source))
    model = ir.from_proto(source if folded is None else folded)
    if folded is None:
        fold(model)
    return layers.changed(model, known)


def test_the_node_that_took_a_batch_norm_in_gives_its_value() -> None:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(4, 3, 3, 3), name="first")
    y = draft.node("Conv", draft.node("Relu", draft.norm(y, 4, name="norm")), draft.drawn(4, 4, 1, 1), name="second")
    assert changed(draft.output(y)) == [Layer("first", "norm.y")]


def test_a_convolution_that_took_one_in_from_before_it_keeps_its_own() -> None:
    """What a fold forward makes: the value between is gone, and the nodes around are left out."""
    source, folded = Draft(), Draft()
    y = source.norm(source.input("batch", 4, 5, 5, name="x"), 4)
    y = source.node("Conv", source.node("Relu", y, name="relu"), source.drawn(4, 4, 1, 1, name="w"), name="conv")
    weight = folded.drawn(4, 4, 1, 1, name="w.folded")
    z = folded.node("Conv", folded.node("Relu", folded.input("batch", 4, 5, 5, name="x"), name="relu"), weight, name="conv")
    assert changed(source.output(y), folded.output(z)) == [Layer("conv", "conv.y")]


def test_a_value_that_a_map_was_carried_through_is_none_but_what_comes_of_it_is() -> None:
    source, folded = Draft(), Draft()
    y = source.node("Conv", source.input("batch", 3, 5, 5, name="x"), source.drawn(4, 3, 1, 1, name="w"), name="conv")
    y = source.norm(source.node("MaxPool", y, kernel_shape=[2, 2], name="pool"), 4, name="norm")
    z = folded.node("Conv", folded.input("batch", 3, 5, 5, name="x"), folded.drawn(4, 3, 1, 1, name="w.folded"), name="conv")
    model = folded.output(folded.node("MaxPool", z, kernel_shape=[2, 2], name="pool"))
    for old, new in (("conv.y", "conv.y.folded"), ("pool.y", "norm.y")):
        renamed(model, old, new)
    assert changed(source.output(y), model) == [Layer("pool", "norm.y")]


def renamed(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in model.graph.output:
        value.name = new if value.name == old else value.name


def test_a_weight_in_the_making_is_no_layer() -> None:
    """The fold has changed the scale with which a weight is dequantized."""

    def model(scale: str) -> onnx.ModelProto:
        draft = Draft()
        weight = draft.constant(np.ones((4, 3, 1, 1)), dtype=np.int8, name="quantized")
        wide = draft.node("DequantizeLinear", weight, draft.constant(0.5, name=scale), name="wide")
        return draft.output(draft.node("Conv", draft.input("batch", 3, 5, 5), wide, name="conv"))

    assert changed(model("scale"), model("scale.folded")) == [Layer("conv", "conv.y")]


def test_a_node_without_a_name_is_called_by_its_value() -> None:
    draft = Draft()
    model = draft.output(draft.norm(draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(4, 3, 3, 3)), 4, name="norm"))
    for node in model.graph.node:
        node.name = ""
    assert changed(model) == [Layer("norm.y", "norm.y")]


def test_exposed_values_come_beside_the_outputs(tmp_path) -> None:
    draft = Draft()
    inner = draft.node("Neg", draft.input("batch", 2, name="x"), name="inner")
    onnx.save(draft.output(draft.node("Abs", inner, name="outer")), tmp_path / "in.onnx")
    layers.expose(tmp_path / "in.onnx", tmp_path / "out.onnx", ["inner.y", "outer.y"])
    opened = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in opened.get_outputs()] == ["outer.y", "inner.y"]
    outer, inner = opened.run(None, {"x": np.ones((1, 2), np.float32)})
    np.testing.assert_array_equal(outer, -inner)


@pytest.mark.parametrize(
    ("shape", "left"),
    [
        ((4, 8, 30, 30), (4, 8, 30, 30)),
        ((1, 64, 256, 256), (1, 64, 64, 64)),
        ((1, 64, 65536), (1, 64, 4096)),
        ((1024, 1024), (1024, 1024)),
        ((), ()),
    ],
)
def test_a_large_layer_is_thinned_but_not_its_channels(shape, left) -> None:
    assert layers.thinned(np.zeros(shape, np.float32)).shape == left


def test_a_thinned_layer_holds_nothing_of_the_rest() -> None:
    assert layers.thinned(np.zeros((1, 64, 256, 256), np.float32)).base is None


def test_portions_are_of_few_elements(monkeypatch) -> None:
    monkeypatch.setattr(layers, "MOST_FETCHED", 10)
    assert list(layers.portions({"a": 4, "b": 6, "c": 1, "d": 20, "e": 3, "f": 7})) == [["a", "b"], ["c"], ["d"], ["e", "f"]]
    assert list(layers.portions({})) == []
