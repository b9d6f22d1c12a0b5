"""The networks of the folding benchmark are those of their papers, and their statistics are uneven and finite."""

import architectures
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

# name: parameters as published or as the paper's widths give them, batch norms
PUBLISHED = {
    "repvgg": (9_108_968, 61),
    "mobileone": (5_297_448, 229),
    "densenet121": (7_978_856, 121),
    "resnet50_v2": (25_549_352, 49),
    "googlenet_bn": (7_005_832, 57),
    "efficientnet_b0": (5_288_548, 49),
    "shufflenet_v2": (2_278_604, 56),
    "arcface": (43_590_848, 79),
    "convmixer": (706_570, 17),
    "levit": (7_834_090, 60),
    "pointnet": (3_480_049, 17),
    "xvector": (4_989_308, 7),
    "unet": (7_762_978, 22),
}
TRAINED = {"digits", "crepe", "text_direction"}


def test_every_network_is_looked_at() -> None:
    assert set(architectures.NAMES) == set(PUBLISHED) | TRAINED | {"resnet50"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_architecture_is_that_of_its_paper_and_stays_in_range(name) -> None:
    network = architectures.network(name)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    assert (sum(parameter.numel() for parameter in network.parameters()), len(norms)) == PUBLISHED[name]
    variances = torch.cat([norm.running_var for norm in norms])
    scales = torch.cat([norm.weight for norm in norms])
    assert torch.isfinite(variances).all()
    assert variances.quantile(0.95) > 10 * variances.median()
    assert 0.01 < (scales < 0).float().mean() < 0.1
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, *dims[1:], generator=generator) for _, dims in architectures.inputs(name).values()]
    with torch.inference_mode():
        answers = network(*inputs)
    assert torch.isfinite(answers).all()
    assert 0.01 < float(answers.std()) < 100


def test_a_network_is_the_same_each_time() -> None:
    torch.manual_seed(1)
    one = architectures.network("xvector").state_dict()
    torch.manual_seed(2)
    other = architectures.network("xvector").state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
