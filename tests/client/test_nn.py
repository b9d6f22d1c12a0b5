"""A normalizer as a torch module, against a server that gives back what it gets, and torch's layers as normalizers."""

import asyncio
import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from normserve import (
    BatchNormLayer,
    InstanceNormLayer,
    InvalidArgumentError,
    NotFoundError,
    RemoteBatchNorm,
)
from normserve.nn import layer_of
from normserve_proto import normalizers_pb2 as pb
from torch import nn

X = torch.arange(12.0).reshape(4, 3)


@pytest.fixture
def obs(client):
    normalizer = client.normalizer("obs")
    normalizer.create(BatchNormLayer(3))
    normalizer.load_state_dict(nn.BatchNorm1d(3).state_dict())
    return normalizer


class TestForward:
    def test_the_modes(self, obs, plan):
        module = RemoteBatchNorm(obs)
        module(X)
        module.eval()(X)
        module.train()(X)
        modes = [seen.request.mode for seen in plan.seen if seen.method == "ApplyNormalizer"]
        assert modes == [pb.MODE_TRAINING, pb.MODE_EVALUATION, pb.MODE_TRAINING]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_a_tensor_and_back(self, obs, dtype):
        strided = X.to(dtype).T.contiguous().T
        output = RemoteBatchNorm(obs)(strided)
        assert output.dtype == dtype
        assert torch.equal(output, strided)
        output += 1  # in memory of its own

    def test_in_front_of_what_is_trained(self, obs):
        network = nn.Sequential(RemoteBatchNorm(obs), nn.Linear(3, 2))
        network(X).sum().backward()
        assert network[1].weight.grad.abs().sum() > 0

    def test_a_gradient_that_would_go_through_is_an_error(self, obs):
        network = nn.Sequential(nn.Linear(3, 3), RemoteBatchNorm(obs), nn.Linear(3, 2))
        loss = network(X).sum()
        with pytest.raises(RuntimeError, match=r"gradients do not go through normalizer 'obs'.*torch\.no_grad\(\)"):
            loss.backward()
        with torch.no_grad():
            assert not network(X).requires_grad

    def test_errors_are_the_clients(self, client):
        with pytest.raises(NotFoundError):
            RemoteBatchNorm(client.normalizer("nobody"))(X)

    def test_a_copy_of_a_network_calls_the_same_normalizer(self, obs):
        network = nn.Sequential(RemoteBatchNorm(obs), nn.Linear(3, 2)).eval()
        copied = copy.deepcopy(network)
        copied(X)
        assert copied[0].normalizer is obs
        assert not copied[0].training
        assert copied[1].weight is not network[1].weight

    def test_its_text(self, obs):
        assert repr(RemoteBatchNorm(obs)) == "RemoteBatchNorm('obs')"


class TestState:
    def test_saving_and_loading_inside_of_a_network(self, obs):
        trained = nn.BatchNorm1d(3)
        trained(X)
        network = nn.Sequential(RemoteBatchNorm(obs), nn.Linear(3, 2))
        state = {f"0.{name}": value for name, value in trained.state_dict().items()}
        state |= {f"1.{name}": value for name, value in network[1].state_dict().items()}
        network.load_state_dict(state)
        saved = network.state_dict()
        assert list(saved) == list(state)
        assert all(torch.equal(saved[name], state[name]) for name in state)
        nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).load_state_dict(saved)
        assert not list(network[0].parameters())

    def test_a_layers_own_state(self, obs, plan):
        module, layer = RemoteBatchNorm(obs), nn.BatchNorm1d(3)
        layer(X)
        module.load_state_dict(layer.state_dict())
        assert plan.seen[-1].request.version == 2
        assert module.state_dict()._metadata[""]["version"] == 2
        nn.BatchNorm1d(3).load_state_dict(module.state_dict())

    def test_strictness_is_torchs(self, obs):
        local, remote = nn.BatchNorm1d(3), RemoteBatchNorm(obs)
        state = nn.BatchNorm1d(3).state_dict()
        state["more"] = state.pop("weight")
        state["bias"] = torch.ones(3)
        texts = []
        for module in (local, remote):
            with pytest.raises(RuntimeError) as failed:
                module.load_state_dict(state)
            texts.append(str(failed.value).replace("RemoteBatchNorm", "BatchNorm1d"))
        assert texts[0] == texts[1]
        state["bias"] = torch.full((3,), 2.0)
        assert local.load_state_dict(state, strict=False) == remote.load_state_dict(state, strict=False)
        assert all(torch.equal(remote.state_dict()[name], value) for name, value in local.state_dict().items())

    def test_of_the_first_version_a_count_may_lack(self, obs, plan):
        state = nn.BatchNorm1d(3).state_dict()
        del state["num_batches_tracked"]
        with pytest.raises(RuntimeError, match="num_batches_tracked"):
            RemoteBatchNorm(obs).load_state_dict(state)
        state._metadata[""]["version"] = 1
        RemoteBatchNorm(obs).load_state_dict(state)
        assert plan.seen[-1].request.version == 1

    def test_what_the_server_refuses_is_among_torchs_errors(self, obs, plan, monkeypatch):
        def refuse(*_arguments, **_options):
            raise InvalidArgumentError("size mismatch for weight")

        monkeypatch.setattr(type(obs), "load_state_dict", refuse)
        with pytest.raises(RuntimeError, match="size mismatch for weight"):
            RemoteBatchNorm(obs).load_state_dict(nn.BatchNorm1d(3).state_dict())


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        (nn.BatchNorm1d(3), BatchNormLayer(3, 1)),
        (nn.BatchNorm2d(3, 0.5, None, False, False), BatchNormLayer(3, 2, 0.5, None, False, False)),
        (nn.BatchNorm3d(3, dtype=torch.float64), BatchNormLayer(3, 3, dtype=np.float64)),
        (nn.SyncBatchNorm(3, momentum=0.3), BatchNormLayer(3, 0, momentum=0.3)),
        (nn.InstanceNorm1d(3), InstanceNormLayer(3, 1)),
        (nn.InstanceNorm2d(3, 0.5, 0.2, True, True, dtype=torch.float64), InstanceNormLayer(3, 2, 0.5, 0.2, True, True, "f8")),
        (nn.InstanceNorm3d(3, track_running_stats=True), InstanceNormLayer(3, 3, track_running_stats=True)),
    ],
    ids=str,
)
def test_a_torch_module_as_a_layer(module, layer):
    assert layer_of(module) == layer


@pytest.mark.parametrize("module", [nn.Linear(2, 3), nn.LayerNorm(3), nn.GroupNorm(1, 3)])
def test_a_module_that_is_no_such_layer(module):
    with pytest.raises(InvalidArgumentError, match=f"wanted a batch norm .* got {type(module).__name__}"):
        layer_of(module)


class TestWithoutTorch:
    def test_nothing_else_needs_it(self, address):
        program = (
            "import sys\nsys.modules['torch'] = None\nimport numpy, normserve\nfrom normserve import *\n"
            f"with normserve.Client({address!r}) as client:\n"
            "    obs = client.normalizer('obs')\n"
            "    obs.create(normserve.RunningNormLayer((2,)))\n"
            "    obs.load_state_dict({'mean': numpy.ones(2)})\n"
            "    print(obs.state_dict()['mean'].sum(), obs.apply(numpy.ones((3, 2))).sum())\n"
            "try:\n    normserve.RemoteBatchNorm\nexcept ImportError as error:\n    print(error.name)\n"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert ended.stdout.split() == ["2.0", "6.0", "torch"], ended.stderr

    def test_other_names_are_missing_as_ever(self):
        import normserve

        with pytest.raises(AttributeError, match="module 'normserve' has no attribute 'Clinet'"):
            _ = normserve.Clinet


async def test_it_calls_from_a_coroutines_thread_too(obs):
    output = await asyncio.to_thread(RemoteBatchNorm(obs), X)
    assert torch.equal(output, X)
