"""CREPE finds pitches; its six batch norms stand behind a ReLU, in front of maximum pooling and zero padding."""

import copy

import numpy as np
import onnx
import pytest
import torch
from normserve_models import graph, prepare, runtime
from normserve_models.measure import relative_error
from normserve_models.reference import Reference
from torch import nn

pytestmark = pytest.mark.trained

SAMPLE_RATE = 16_000
PITCHES_HZ = (65.4, 110.0, 220.0, 440.0, 880.0, 1760.0)
CENTS_A_BIN = 20.0
FIRST_BIN_HZ = 31.7  # of the trained weights; the paper names C1, 32.7 Hz


@pytest.fixture(scope="module")
def tones():
    """A frame a pitch, with a little noise, of mean 0 and variance 1 as the network wants it, float32 [6, 1024]."""
    seconds = np.arange(1024) / SAMPLE_RATE
    frames = np.sin(2 * np.pi * np.outer(PITCHES_HZ, seconds))
    frames += 0.05 * np.random.default_rng(0).standard_normal(frames.shape)
    frames -= frames.mean(axis=1, keepdims=True)
    return (frames / frames.std(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def wanted(crepe_file, tones):
    return Reference(graph.load(crepe_file)).run({"frames": tones})["salience"]


@pytest.fixture(scope="module")
def folded(crepe_file, tmp_path_factory):
    """The folded file and its report."""
    path = tmp_path_factory.mktemp("folded") / "model.onnx"
    return path, prepare.fold_file(crepe_file, path)


def run(path, frames):
    return runtime.session(path).run(["salience"], {"frames": frames})[0]


def test_the_statistics_are_a_trained_networks_and_every_scale_is_positive(crepe_network) -> None:
    norms = [module for module in crepe_network.modules() if isinstance(module, nn.BatchNorm2d)]
    scales = [norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt() for norm in norms]
    assert [len(scale) for scale in scales] == [128, 16, 16, 16, 32, 64]
    assert all(scale.min() > 0 and scale.max() < 0.3 for scale in scales)
    assert max(float(norm.running_var.max()) for norm in norms) > 1e4
    assert min(float(norm.running_mean.abs().min()) for norm in norms) > 1


def test_the_export_holds_all_six_and_a_static_frame(crepe_file) -> None:
    model = onnx.load(crepe_file)
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 6
    [frames] = model.graph.input
    assert [dim.dim_param or dim.dim_value for dim in frames.type.tensor_type.shape.dim] == ["batch", 1024]


def test_the_network_is_defined_right_it_hears_the_pitches(crepe_network, tones) -> None:
    with torch.inference_mode():
        salience = crepe_network(torch.from_numpy(tones)).numpy()
    heard = FIRST_BIN_HZ * 2 ** (salience.argmax(axis=1) * CENTS_A_BIN / 1200)
    assert np.abs(1200 * np.log2(heard / PITCHES_HZ)).max() <= CENTS_A_BIN
    assert salience.max(axis=1).min() > 0.5


def test_the_unfolded_file_answers_as_torch_does(crepe_network, crepe_file, tones) -> None:
    with torch.inference_mode():
        eager = crepe_network(torch.from_numpy(tones)).numpy()
    assert relative_error(run(crepe_file, tones), eager.astype(np.float64)) <= 2e-6


def test_the_reference_answers_as_torch_does_in_float64(crepe_network, tones, wanted) -> None:
    with torch.inference_mode():
        eager = copy.deepcopy(crepe_network).double()(torch.from_numpy(tones.astype(np.float64))).numpy()
    assert relative_error(wanted, eager) <= 1e-12


def test_the_fold_is_exact(folded, tones, wanted) -> None:
    path, _ = folded
    assert relative_error(run(path, tones), wanted) <= 1e-6


def test_all_six_batch_norms_fold(folded) -> None:
    path, report = folded
    stayed = {norm.name: f"{norm.reason}: {norm.detail}" for norm in report.norms if not norm.folded}
    assert stayed == {}
    assert report.folded == 6
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}
