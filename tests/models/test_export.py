"""PyTorch modules to ONNX files that still hold their batch norms."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from normserve_models import export as exporter
from normserve_models import prepare
from normserve_models.export import ExportError, export
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.second = nn.BatchNorm2d(4)

    def forward(self, image, offset):
        y = self.second(self.first(image).relu())
        return y, y.mean(dim=(2, 3)) + offset


INPUTS = {"image": ("FP32", (-1, 3, 8, 8)), "offset": ("FP32", (-1, 4))}


def operators(path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_batch_norms_survive_and_the_batch_is_dynamic(tmp_path) -> None:
    path = tmp_path / "net.onnx"
    net = Net().eval()
    export(net, INPUTS, path, outputs=["maps", "means"])
    assert operators(path).count("BatchNormalization") == 2
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.shape[0] for value in (*session.get_inputs(), *session.get_outputs())] == ["batch"] * 4
    image, offset = torch.randn(5, 3, 8, 8), torch.randn(5, 4)
    answers = session.run(["maps", "means"], {"image": image.numpy(), "offset": offset.numpy()})
    for got, wanted in zip(answers, net(image, offset), strict=True):
        np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_torch_writes_folds_whole(tmp_path) -> None:
    """Whole layers as torch's exporter writes them: no bias, no affine, groups, transposed, linear."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        *(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8, affine=False), nn.SiLU()),
        *(nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Flatten()),
        *(
            nn.Linear(128, 16),
            nn.BatchNorm1d(16),
            nn.Hardswish(),
            nn.Linear(16, 4, bias=False),
            nn.BatchNorm1d(4, affine=False),
        ),
    ).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 3)
    export(net, {"x": ("FP32", (-1, 3, 8, 8))}, tmp_path / "net.onnx")
    report = prepare.fold_file(tmp_path / "net.onnx", tmp_path / "folded.onnx")
    assert (report.folded, report.left) == (5, 0)


def test_arrays_and_tensors_are_examples_too(tmp_path) -> None:
    examples = {"image": np.zeros((1, 3, 8, 8), np.float32), "offset": torch.zeros(2, 4)}
    export(Net().eval(), examples, tmp_path / "net.onnx")
    assert [value.name for value in onnx.load(tmp_path / "net.onnx").graph.input] == ["image", "offset"]


def test_a_batch_norm_in_training_mode_is_named(tmp_path) -> None:
    net = Net().eval()
    net.first[1].train()
    with pytest.raises(ExportError, match=r"training mode: 'first\.1'\..*\.eval\(\)"):
        export(net, INPUTS, tmp_path / "net.onnx")
    with pytest.raises(ExportError, match=r"'first\.1', 'second'"):
        exporter.refuse_training(Net())
    with pytest.raises(ExportError, match="the module itself"):
        exporter.refuse_training(nn.BatchNorm1d(3))
    assert list(tmp_path.iterdir()) == []


def test_other_modules_may_be_in_training_mode() -> None:
    exporter.refuse_training(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval()))


def test_a_functional_call_in_training_mode_is_refused(tmp_path) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("var", torch.ones(4))

        def forward(self, x):
            return F.batch_norm(x, self.mean, self.var, training=True)

    with pytest.raises(ExportError, match="training=True"):
        export(Functional().eval(), {"x": ("FP32", (-1, 4))}, tmp_path / "net.onnx")


def test_batch_statistics_in_eval_mode_are_exported_as_they_are(tmp_path) -> None:
    path = tmp_path / "net.onnx"
    export(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval(), {"x": ("FP32", (-1, 3))}, path)
    assert "ReduceMean" in operators(path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("FP31", (-1, 3)), "'x': unknown datatype 'FP31', wanted one of BOOL"),
        (("FP32", (2, 3)), r"'x': wanted dims of the form -1,3,224,224 .* got \[2, 3\]"),
        (("FP32", (-1, 0)), r"got \[-1, 0\]"),
        (("FP32", ()), r"got \[\]"),
        (np.float32(1), r"'x': wanted an example with a batch dimension, got the shape \[\]"),
    ],
)
def test_inputs_that_are_no_examples(tmp_path, given, says) -> None:
    with pytest.raises(ExportError, match=says):
        export(nn.Identity(), {"x": given}, tmp_path / "net.onnx")


def test_a_module_that_fixes_the_batch(tmp_path) -> None:
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 3)

    with pytest.raises(ExportError, match="torch cannot export the module"):
        export(Fixed(), {"x": ("FP32", (-1, 3))}, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_output_without_the_batch(tmp_path) -> None:
    class Total(nn.Module):
        def forward(self, x):
            return x.sum()

    with pytest.raises(ExportError, match=r"'total' has the shape .* wanted the dimension 'batch' first"):
        export(Total(), {"x": ("FP32", (-1, 3))}, tmp_path / "net.onnx", outputs=["total"])


def test_the_wrong_number_of_names(tmp_path) -> None:
    with pytest.raises(ExportError, match="2 output names for 1 outputs"):
        export(nn.ReLU(), {"x": ("FP32", (-1, 3))}, tmp_path / "net.onnx", outputs=["a", "b"])


def test_versions_count_up_and_are_never_touched(tmp_path) -> None:
    model = tmp_path / "net"
    (model / "3").mkdir(parents=True)
    (model / "config.pbtxt").write_text("")
    path = exporter.publish(nn.ReLU(), {"x": ("FP32", (-1, 3))}, model)
    assert path == model / "4" / "model.onnx"
    assert path.exists()
    assert exporter.publish(nn.ReLU(), {"x": ("FP32", (-1, 3))}, tmp_path / "new") == tmp_path / "new" / "1" / "model.onnx"


def test_a_missing_bias_costs_nothing_at_run_time(tmp_path) -> None:
    """torch writes Expand(CastLike(0, x), Shape(W)), and onnxruntime computes that in every run."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU()).eval()
    export(network, {"x": ("FP32", (-1, 3, 8, 8))}, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu"]
    assert {tensor.name for tensor in model.graph.initializer} == {"0.weight", "node_conv2d.bias"}
