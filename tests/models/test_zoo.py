"""The example networks: what they promise, and how they come into a repository."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from normserve_models import prepare
from normserve_models.report import Report
from normserve_models.zoo import build, digits, digits_data


@pytest.fixture(scope="module")
def prepared(digits_repository, tmp_path_factory):
    """The folded digits network."""
    out = tmp_path_factory.mktemp("prepared") / "digits"
    prepare.prepare(digits_repository / "digits" / "1" / "model.onnx", out)
    return out


def test_digits_is_built_unfolded(digits_repository) -> None:
    model = onnx.load(digits_repository / "digits" / "1" / "model.onnx")
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) >= 6
    [image], [logits] = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == ["batch", 1, 8, 8]
    assert [dim.dim_param or dim.dim_value for dim in logits.type.tensor_type.shape.dim] == ["batch", 10]


def test_digits_folds_whole(prepared) -> None:
    report = Report.from_json((prepared / "report.json").read_text())
    assert (report.folded, report.left) == (8, 0)
    assert report.errors[0].folded <= 1e-6


def test_digits_names_98_in_100_of_the_digits_it_has_not_seen(prepared) -> None:
    session = onnxruntime.InferenceSession(prepared / "model.onnx", providers=["CPUExecutionProvider"])
    images, labels = digits_data.held_out()
    [logits] = session.run(["logits"], {"image": images})
    accuracy = float(np.mean(logits.argmax(1) == labels))
    assert accuracy >= 0.98
    assert accuracy == pytest.approx(json.loads(digits.CARD.read_text())["held_out_accuracy"], abs=0.003)


def test_the_split_is_disjoint_and_whole() -> None:
    (seen, seen_labels), (unseen, unseen_labels) = digits_data.training(), digits_data.held_out()
    assert seen.dtype == unseen.dtype == np.float32
    assert seen_labels.dtype == unseen_labels.dtype == np.int64
    assert (seen.shape, unseen.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert 0 <= min(seen.min(), unseen.min()) <= max(seen.max(), unseen.max()) == 1
    assert not {image.tobytes() for image in seen} & {image.tobytes() for image in unseen}


def test_the_weights_are_small() -> None:
    assert digits.WEIGHTS.stat().st_size < 1_000_000


def test_the_images_cost_no_torch() -> None:
    code = "import sys; from normserve_models.zoo import digits_data; digits_data.held_out(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_network_that_is_there_is_not_built_again(digits_repository) -> None:
    code = (
        "import sys; from normserve_models.zoo import build;"
        f"build.main(['--repository', {str(digits_repository)!r}, 'digits']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_an_unknown_network(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        build.main(["--repository", str(tmp_path), "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_resnet50_is_the_architecture_of_the_paper_and_stays_in_range() -> None:
    import torch
    from normserve_models.zoo import resnet50

    network = resnet50.load()
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032  # as published
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()) == 53
    strides = [
        module.stride for module in network.modules() if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    assert strides.count((2, 2)) == 3
    with torch.inference_mode():
        logits = network(torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (1, 1000)
    assert 0.01 < float(logits.std()) < 100


def test_a_short_training_learns() -> None:
    from normserve_models.zoo import train

    _, accuracy = train.train(epochs=4)
    assert accuracy > 0.7
