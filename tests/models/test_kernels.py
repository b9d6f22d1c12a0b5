"""The float64 kernels against torch's, and against onnx's own reference where both run."""

import itertools

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from normserve_models import kernels, testing
from normserve_models.testing import Draft

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
FORMS = list(itertools.product((1, 2, 3), (1, 2), (1, 2), (0, 1), (1, 2)))
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def node(op_type: str, **attributes: object) -> ir.Node:
    return ir.node(op_type, [], attributes)


def close(got: np.ndarray, wanted: torch.Tensor) -> None:
    assert got.shape == tuple(wanted.shape)
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-12, atol=1e-12)


@pytest.fixture
def draw():
    generator = np.random.default_rng(0)
    return generator.standard_normal


@pytest.mark.parametrize(("rank", "groups", "stride", "pad", "dilation"), FORMS)
def test_conv(rank, groups, stride, pad, dilation, draw) -> None:
    x, weight, bias = draw((2, 4, *[6] * rank)), draw((6, 4 // groups, *[3] * rank)), draw(6)
    form = {"strides": [stride] * rank, "pads": [pad] * 2 * rank, "dilations": [dilation] * rank}
    got = kernels.conv(node("Conv", group=groups, **form), [x, weight, bias])
    close(got, CONVS[rank](*map(torch.tensor, (x, weight, bias)), stride, pad, dilation, groups))


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
def test_conv_same(auto, draw) -> None:
    x, weight = draw((1, 1, 5)), draw((1, 1, 2))
    got = kernels.conv(node("Conv", auto_pad=auto), [x, weight])
    sides = (0, 1) if auto == "SAME_UPPER" else (1, 0)
    close(got, F.conv1d(F.pad(torch.tensor(x), sides), torch.tensor(weight)))


@pytest.mark.parametrize(("rank", "groups", "stride", "pad", "dilation"), FORMS)
def test_conv_transpose(rank, groups, stride, pad, dilation, draw) -> None:
    x, weight, bias = draw((2, 4, *[4] * rank)), draw((4, 3, *[3] * rank)), draw(3 * groups)
    extra = stride - 1
    form = {"strides": [stride] * rank, "pads": [pad] * 2 * rank, "dilations": [dilation] * rank}
    got = kernels.conv_transpose(node("ConvTranspose", group=groups, output_padding=[extra] * rank, **form), [x, weight, bias])
    assert got is not None
    close(got, TRANSPOSED[rank](*map(torch.tensor, (x, weight, bias)), stride, pad, extra, groups, dilation))


def test_conv_transpose_leaves_rare_forms_to_onnx(draw) -> None:
    assert kernels.conv_transpose(node("ConvTranspose", output_shape=[8]), [draw((1, 1, 4)), draw((1, 1, 3))]) is None


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 1), (3, 1)])
def test_pools(stride, pad, draw) -> None:
    x = draw((2, 3, 7, 6))
    form = {"kernel_shape": [3, 3], "strides": [stride] * 2, "pads": [pad] * 4}
    close(kernels.max_pool(node("MaxPool", **form), [x]), F.max_pool2d(torch.tensor(x), 3, stride, pad))
    for include in (0, 1):
        got = kernels.average_pool(node("AveragePool", count_include_pad=include, **form), [x])
        close(got, F.avg_pool2d(torch.tensor(x), 3, stride, pad, count_include_pad=bool(include)))


def test_batch_norm(draw) -> None:
    x, gamma, beta, mean, variance = draw((2, 3, 4)), draw(3), draw(3), draw(3), draw(3) ** 2
    got = kernels.batch_norm(node("BatchNormalization", epsilon=0.25), [x, gamma, beta, mean, variance])
    wanted = F.batch_norm(*map(torch.tensor, (x, mean, variance, gamma, beta)), eps=0.25)
    close(got, wanted)


@pytest.mark.parametrize("form", [{"ceil_mode": 1}, {"ceil_mode": 0}])
def test_a_kernel_and_the_fallback_give_the_same(form) -> None:
    draft = Draft()
    y = draft.node("MaxPool", draft.input("batch", 2, 5, 5), kernel_shape=[2, 2], strides=[2, 2], **form)
    model = draft.output(y)
    batch = testing.draw_inputs(model)
    [got] = testing.answers(model, batch).values()
    [x] = batch.values()
    close(got, F.max_pool2d(torch.tensor(x.astype(np.float64)), 2, 2, ceil_mode=bool(form["ceil_mode"])))
