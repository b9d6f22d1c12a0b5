"""`normserve fold --precision` and `--input-normalization`, run as the user runs them."""

import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from normserve_models import testing
from normserve_models.measure import relative_error
from normserve_models.report import Report
from normserve_models.testing import Draft
from onnx import TensorProto

NORMALIZATION = ("--input-normalization", "mean=120,110,100 std=60,55,50", "--input-dtype", "uint8")


@pytest.fixture
def source(tmp_path):
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 7, 7, name="image"), draft.drawn(4, 3, 3, 3), pads=[1] * 4, name="conv")
    path = tmp_path / "in.onnx"
    onnx.save(draft.output(draft.node("Relu", draft.norm(y, 4, name="bn"), name="last")), path)
    return path


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "normserve.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


def answer(path, image: np.ndarray) -> np.ndarray:
    [y] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": image})
    return y


def wanted(source, image: np.ndarray) -> np.ndarray:
    mean, std = (np.array(values, float).reshape(1, 3, 1, 1) for values in ((120, 110, 100), (60, 55, 50)))
    [y] = testing.answers(onnx.load(source), {"image": (image - mean) / std}).values()
    return y


def test_bytes_go_in_and_half_precision_computes(source, tmp_path) -> None:
    target, story = tmp_path / "out.onnx", tmp_path / "report.json"
    done = run("fold", source, target, *NORMALIZATION, "--precision", "float16", "--report", story)
    assert (done.returncode, done.stderr) == (0, "")
    assert "output in float16" in done.stdout
    model = onnx.load(target)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 7, 7)).astype(np.uint8)
    assert relative_error(answer(target, image), wanted(source, image)) <= 8e-3
    report = Report.from_json(story.read_text())
    assert report.precision is not None
    assert report.precision.dtype == "float16"
    assert [error.bound for error in report.errors] == [1e-6]  # the fold is proved in float32
    assert [error.bound for error in report.precision.errors] == [8e-3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.onnx", "report.json"]


def test_each_alone(source, tmp_path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 7, 7))
    assert run("fold", source, tmp_path / "bytes.onnx", *NORMALIZATION).returncode == 0
    assert relative_error(answer(tmp_path / "bytes.onnx", image.astype(np.uint8)), wanted(source, image)) <= 1e-6
    assert run("fold", source, tmp_path / "half.onnx", "--precision", "bfloat16").returncode == 0
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer}
    assert kinds == {TensorProto.BFLOAT16}


def test_the_bias_map_is_exact_at_the_border(source, tmp_path) -> None:
    """All of the mean: what the border adds must be what padding with zeros in front of the normalization was."""
    run("fold", source, tmp_path / "out.onnx", *NORMALIZATION)
    image = np.broadcast_to(np.array([120, 110, 100], np.uint8).reshape(1, 3, 1, 1), (1, 3, 7, 7)).copy()
    assert relative_error(answer(tmp_path / "out.onnx", image), wanted(source, image)) <= 2e-6


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--precision", "float8"], 2, "--precision: wanted float16 or bfloat16, got 'float8'"),
        (["--input-normalization", "mean=1,2 std=1,1"], 2, "mean has 2 values, wanted 1 or 3"),
        (["--input-normalization", "mean=1"], 2, "std is lacking"),
        (["--input-dtype", "uint8"], 2, "--input-dtype needs --input-normalization"),
    ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(source, tmp_path, options, status, says) -> None:
    done = run("fold", source, tmp_path / "out.onnx", *options)
    assert done.returncode == status
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx"]


def test_a_weight_too_large_for_half_precision(tmp_path) -> None:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 1, 5, 5, name="image"), draft.constant(np.full((2, 1, 3, 3), 1e5)), name="conv")
    onnx.save(draft.output(draft.norm(y, 2)), tmp_path / "in.onnx")
    done = run("fold", tmp_path / "in.onnx", tmp_path / "out.onnx", "--precision", "float16")
    assert done.returncode == 1
    assert "65504" in done.stderr
    assert not (tmp_path / "out.onnx").exists()
