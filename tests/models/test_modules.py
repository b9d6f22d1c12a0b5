"""Networks as their authors write them: exported, folded, and held against the module itself in float64."""

import copy
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from normserve_models import measure, prepare, runtime
from normserve_models.export import ExportError, export, without_parametrizations
from torch import nn
from torch.nn.utils import parametrizations

IMAGE = ("FP32", (-1, 4, 6, 6))
ROW = ("FP32", (-1, 4))
TYPES = {"FP32": torch.float32, "FP16": torch.float16}


class NormAct(nn.BatchNorm2d):
    """A batch norm with an activation inside."""

    def forward(self, x):
        return super().forward(x).relu()


class SpelledNormAct(nn.BatchNorm2d):
    """As timm writes it: the functional call, and the activation a module."""

    def __init__(self, channels) -> None:
        super().__init__(channels)
        self.act = nn.SiLU()

    def forward(self, x):
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return self.act(y)


class SamePadding(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class Functional(nn.Module):
    """No layers at all."""

    def __init__(self) -> None:
        super().__init__()
        self.filters, self.gamma, self.beta = (nn.Parameter(torch.randn(shape)) for shape in ((4, 4, 3, 3), 4, 4))
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)

    def forward(self, x):
        return F.batch_norm(F.conv2d(x, self.filters), self.mean, self.variance, self.gamma, self.beta, eps=1e-3)


class Tied(nn.Module):
    """Two convolutions with one weight, and a batch norm each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.other.weight = self.one.weight
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, x):
        return self.norms[0](self.one(x)) - self.norms[1](self.other(x))


class OneNormTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs, self.norm = nn.ModuleList([nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)]), nn.BatchNorm2d(4)

    def forward(self, x):
        for conv in self.convs:
            x = self.norm(conv(x)).relu()
        return x


class OneConvTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norms = nn.Conv2d(4, 4, 3), nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, x):
        for norm in self.norms:
            x = norm(self.conv(x)).relu()
        return x


class MixedTypes(nn.Module):
    """float16 with the statistics kept in float32, as apex and autocast users do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3).half(), nn.BatchNorm2d(4)

    def forward(self, x):
        norm = self.norm
        return F.batch_norm(self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)


def conv(norm: nn.Module, first: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(first or nn.Conv2d(4, 4, 3), norm)


def lazy() -> nn.Module:
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    net.eval()(torch.zeros(1, 4, 6, 6))
    return net


def hooked(norm) -> nn.Module:
    """The older way, which computes the weight in a hook."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return conv(nn.BatchNorm2d(4), norm(nn.Conv2d(4, 4, 3)))


@dataclass(frozen=True)
class Row:
    """A network.

    Attributes:
        build: Makes it.
        given: Its input.
        stays: The reasons of its batch norms that stay.
    """

    build: object
    given: tuple = IMAGE
    stays: tuple[str, ...] = ()


ROWS = {
    "a batch norm with an activation inside": Row(lambda: conv(NormAct(4))),
    "a batch norm that calls the function": Row(lambda: conv(SpelledNormAct(4))),
    "a subclassed convolution": Row(lambda: conv(nn.BatchNorm2d(4), SamePadding(4, 4, 3))),
    "functional calls": Row(Functional),
    "weight norm": Row(lambda: conv(nn.BatchNorm2d(4), parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))),
    "weight norm, Linear": Row(lambda: conv(nn.BatchNorm1d(4), parametrizations.weight_norm(nn.Linear(4, 4))), ROW),
    "spectral norm": Row(lambda: conv(nn.BatchNorm2d(4), parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)))),
    "orthogonal, by a matrix exponential": Row(
        lambda: conv(nn.BatchNorm1d(4), parametrizations.orthogonal(nn.Linear(4, 4))), ROW
    ),
    "weight norm in a hook": Row(lambda: hooked(nn.utils.weight_norm)),
    "spectral norm in a hook": Row(lambda: hooked(nn.utils.spectral_norm)),
    "tied weights": Row(Tied),
    "one batch norm twice": Row(OneNormTwice),
    "one convolution twice": Row(OneConvTwice),
    "Linear to [N, C, L], L equal to C": Row(
        lambda: conv(nn.BatchNorm1d(5), nn.Linear(6, 5)), ("FP32", (-1, 5, 6)), ("axis", "blocked")
    ),
    "no running statistics": Row(lambda: conv(nn.BatchNorm2d(4, track_running_stats=False)), stays=("batch_statistics",)),
    "cumulative averages": Row(lambda: conv(nn.BatchNorm2d(4, momentum=None))),
    "no scale and shift": Row(lambda: conv(nn.BatchNorm2d(4, affine=False))),
    "synchronised": Row(lambda: conv(nn.SyncBatchNorm(4))),
    "lazy": Row(lazy),
    "float16": Row(lambda: conv(nn.BatchNorm2d(4)).half(), ("FP16", (-1, 4, 6, 6))),
    "float16 with statistics in float32": Row(MixedTypes, ("FP16", (-1, 4, 6, 6))),
}


def network(row: Row) -> nn.Module:
    torch.manual_seed(0)
    net = row.build().eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 3)
            if module.weight is not None:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return net


def exact(net: nn.Module, x: torch.Tensor) -> np.ndarray:
    """What the module answers in float64. A hooked weight cannot be copied, so the module itself is changed."""
    return net.double()(x.double()).detach().numpy()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_module_folds_without_the_help_of_its_author(tmp_path, row) -> None:
    net, (datatype, dims) = network(row), row.given
    export(net, {"x": row.given}, tmp_path / "net.onnx")
    report = prepare.fold_file(tmp_path / "net.onnx", tmp_path / "folded.onnx")
    left = [norm.reason for norm in report.norms if not norm.folded]
    assert set(left) <= set(row.stays)
    assert bool(left) == bool(row.stays)
    x = torch.randn(3, *dims[1:]).to(TYPES[datatype])
    [got] = runtime.session(tmp_path / "folded.onnx").run(None, {"x": x.numpy()})
    assert measure.relative_error(got, exact(net, x)) <= (1e-6 if datatype == "FP32" else 8e-3)


def test_an_export_leaves_a_parametrized_module_as_it_was(tmp_path) -> None:
    net = network(ROWS["weight norm"])
    x, before = torch.randn(2, 4, 6, 6), copy.deepcopy(net.state_dict())
    wanted = net(x)
    export(net, {"x": IMAGE}, tmp_path / "net.onnx")
    assert torch.equal(net(x), wanted)
    assert {name: tensor.tolist() for name, tensor in net.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in before.items()
    }
    nn.utils.parametrize.remove_parametrizations(net[0], "weight")


def test_a_module_without_parametrizations_is_not_copied() -> None:
    net = Tied()
    assert without_parametrizations(net) is net


def test_one_that_cannot_be_copied_is_exported_as_it_is(tmp_path) -> None:
    net = network(ROWS["weight norm"])
    net.lock = (number for number in range(3))  # a generator cannot be copied
    export(net, {"x": IMAGE}, tmp_path / "net.onnx")
    assert without_parametrizations(net) is net


def test_what_is_not_initialized_is_named(tmp_path) -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.LazyBatchNorm2d()).eval()
    with pytest.raises(ExportError, match=r"not initialized: '1\.weight', .* Run the module once"):
        export(net, {"x": IMAGE}, tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "norm", [NormAct(4), SpelledNormAct(4), nn.SyncBatchNorm(4), nn.BatchNorm2d(4, track_running_stats=False)]
)
def test_any_batch_norm_in_training_mode_is_refused(tmp_path, norm) -> None:
    net = conv(norm).eval()
    norm.train()
    with pytest.raises(ExportError, match="training mode: '1'"):
        export(net, {"x": IMAGE}, tmp_path / "net.onnx")


def test_what_onnx_has_not_is_named(tmp_path) -> None:
    class Exponential(nn.Module):
        def forward(self, x):
            return torch.linalg.matrix_exp(x)

    with pytest.raises(ExportError, match="linalg_matrix_exp"):
        export(Exponential(), {"x": ("FP32", (-1, 4, 4))}, tmp_path / "net.onnx")
