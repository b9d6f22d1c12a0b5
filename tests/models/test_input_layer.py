"""The normalization of the input goes into the first layer."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from normserve_models import normalize_input, rewrite, testing
from normserve_models.fold import fold_unrounded
from normserve_models.testing import Draft
from normserve_models.verify import relative_error

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def first_layer(*spatial: int | str, pads: int = 0, channels: int = 8) -> onnx.ModelProto:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, *spatial, name="image"), draft.drawn(channels, 3, 3, 3), pads=[pads] * 4)
    return draft.output(draft.node("Relu", y))


def normalized(source: onnx.ModelProto, dtype: ir.DataType | None = None) -> onnx.ModelProto:
    model = ir.from_proto(source)
    _, exact = fold_unrounded(model, normalize_input.insert(model, MEAN, STD, dtype=dtype))
    rewrite.round_exact(exact)
    return ir.to_proto(model)


def answers(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [y] = session.run(None, {"image": image})
    return y


def exact(source: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    [y] = testing.answers(source, {"image": (image.astype(np.float64) - mean) / std}).values()
    return y


@pytest.mark.parametrize("pads", [0, 1])
@pytest.mark.parametrize("size", [(9, 9), ("height", "width")])
@pytest.mark.parametrize("dtype", [ir.DataType.UINT8, None])
def test_it_is_exact_at_the_borders_too(pads, size, dtype) -> None:
    source = first_layer(*size, pads=pads)
    result = normalized(source, dtype)
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 9, 9)).astype(np.float32 if dtype is None else np.uint8)
    assert relative_error(answers(result, image), exact(source, image)) <= 1e-6


def test_nothing_is_left_of_it_without_padding() -> None:
    assert testing.operators_of(normalized(first_layer(9, 9), ir.DataType.UINT8)) == ["Cast", "Conv", "Relu"]


def test_over_padding_of_a_free_size_the_mean_is_subtracted_and_the_std_is_in_the_weight() -> None:
    result = normalized(first_layer("h", "w", pads=1), ir.DataType.UINT8)
    assert testing.operators_of(result) == ["Cast", "Add", "Conv", "Relu"]
    [mean] = [onnx.numpy_helper.to_array(t) for t in result.graph.initializer if t.dims and list(t.dims[:2]) == [1, 3]]
    assert mean.reshape(-1).tolist() == np.float32([-value for value in MEAN]).tolist()


def test_over_padding_of_a_large_image_no_map_is_made() -> None:
    assert testing.operators_of(normalized(first_layer(64, 64, pads=1, channels=32))) == ["Add", "Conv", "Relu"]


def test_callers_send_bytes() -> None:
    [image] = normalized(first_layer(9, 9), ir.DataType.UINT8).graph.input
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)


def test_an_image_of_the_mean_is_zero_everywhere() -> None:
    """A padded border that were not the mean would show."""
    source = first_layer(9, 9, pads=1)
    image = np.broadcast_to(np.array(MEAN, np.float32).reshape(1, 3, 1, 1), (1, 3, 9, 9)).copy()
    wanted = exact(source, image)
    assert np.abs(answers(normalized(source), image) - wanted).max() <= 1e-4
