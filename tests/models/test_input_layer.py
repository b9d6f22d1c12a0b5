"""The normalization of the input goes into the first layer."""

import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from normserve_models import normalize_input, prepare, rewrite, testing
from normserve_models.fold import fold_unrounded
from normserve_models.measure import relative_error
from normserve_models.testing import Draft

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


def test_a_gray_image_has_one_channel() -> None:
    draft = Draft()
    source = draft.output(draft.node("Conv", draft.input("batch", 1, 9, 9, name="image"), draft.drawn(4, 1, 3, 3)))
    model = ir.from_proto(source)
    _, exact = fold_unrounded(model, normalize_input.insert(model, [127.5], [63.75], dtype=ir.DataType.UINT8))
    rewrite.round_exact(exact)
    assert testing.operators_of(ir.to_proto(model)) == ["Cast", "Conv"]


MODULE = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()).eval()
"""


def test_an_exported_network_takes_bytes(tmp_path, monkeypatch) -> None:
    (tmp_path / "bytes_network.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    option = [f"mean={','.join(map(str, MEAN))}", f"std={','.join(map(str, STD))}"]
    arguments = ["export", "bytes_network:network", "-i", "image=FP32[-1,3,9,9]", "--name", "net", "--repository", "models"]
    normalization = ["--input-normalization", option[0], "--input-normalization", option[1], "--input-dtype", "uint8"]
    assert run(*arguments, *normalization).stderr == ""
    report = prepare.fold_file(tmp_path / "models/net/1/model.onnx", tmp_path / "folded.onnx")
    assert (report.folded, report.left) == (2, 0)  # the batch norm, and the normalization, which is one
    folded = onnx.load(tmp_path / "folded.onnx")
    assert testing.operators_of(folded)[:2] == ["Cast", "Conv"]
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 9, 9)).astype(np.uint8)
    import torch

    monkeypatch.syspath_prepend(tmp_path)
    from bytes_network import network

    mean, std = (torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    wanted = network().double()((torch.from_numpy(image).double() - mean) / std).detach().numpy()
    assert relative_error(answers(folded, image), wanted) <= 1e-6
    refused = run(*arguments, "--input-dtype", "uint8")
    assert refused.returncode == 2
    assert "--input-dtype needs --input-normalization" in refused.stderr


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "normserve.cli", *arguments], capture_output=True, text=True, check=False)
