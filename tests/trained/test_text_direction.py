"""A file as PaddlePaddle ships it: opset 11, parameters as Constant nodes, free sizes, statistics of real pictures."""

import numpy as np
import onnx
import pytest
from normserve_models import graph, prepare, runtime
from normserve_models.fold import fold
from normserve_models.measure import relative_error
from normserve_models.reference import Reference

pytestmark = pytest.mark.trained


@pytest.fixture(scope="module")
def lines():
    """Pictures of the size that the network was trained on, scaled to -1 to 1, float32 [8, 3, 48, 192]."""
    generator = np.random.default_rng(0)
    strokes = generator.random((8, 1, 6, 48)).repeat(8, axis=2).repeat(4, axis=3) > 0.6
    return np.clip(1.6 * strokes - 0.8 + 0.1 * generator.standard_normal((8, 3, 48, 192)), -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def folded(text_direction_file, tmp_path_factory):
    """The folded file, not proved, and what became of each batch norm."""
    path = tmp_path_factory.mktemp("folded") / "model.onnx"
    model = graph.load(text_direction_file)
    norms = fold(model)
    graph.save(model, path, "model.onnx.data")
    return path, norms


def run(path, lines):
    return runtime.session(path).run(None, {"x": lines})[0]


def test_the_shipped_file_holds_35_batch_norms_whose_parameters_are_constant_nodes(text_direction_file) -> None:
    nodes = onnx.load(text_direction_file).graph.node
    constants = {node.output[0] for node in nodes if node.op_type == "Constant"}
    norms = [node for node in nodes if node.op_type == "BatchNormalization"]
    assert len(norms) == 35
    assert all(set(norm.input[1:]) <= constants for norm in norms)


def test_all_35_fold(folded) -> None:
    path, norms = folded
    assert [norm.folded for norm in norms] == [True] * 35
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}


def test_the_fold_is_exact_and_decides_alike(text_direction_file, folded, lines) -> None:
    path, _ = folded
    before, after = run(text_direction_file, lines), run(path, lines)
    [wanted] = Reference(graph.load(text_direction_file)).run({"x": lines}).values()
    assert relative_error(after, wanted) <= 1e-6
    assert (after.argmax(axis=1) == before.argmax(axis=1)).all()
    assert np.ptp(wanted[:, 0]) > 0.1  # the pictures are told apart


def test_the_proof_finds_a_size_on_which_it_can_judge(text_direction_file, tmp_path) -> None:
    # The last pooling has a window of 2: on pictures less than 64 high its input is 1 high, where onnxruntime differs from
    # the specification, by which nothing is left. A proof on such pictures would compare nothing.
    report = prepare.fold_file(text_direction_file, tmp_path / "model.onnx")
    [error] = report.errors
    assert error.folded is not None
    assert error.folded <= error.bound <= 1e-5
