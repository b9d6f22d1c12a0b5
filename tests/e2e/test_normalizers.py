"""Normalizers from the client to the disk: real clients and a real server, torch beside it."""

import asyncio
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from deaf_proxy import DeafProxy
from normserve import (
    AbortedError,
    AlreadyExistsError,
    AsyncClient,
    BatchNormLayer,
    Client,
    InstanceNormLayer,
    InvalidArgumentError,
    NotFoundError,
    RemoteBatchNorm,
    RunningNormLayer,
)
from normserve.nn import layer_of
from normserve.testing import running_server
from torch import nn

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(3, 2, (8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("normalizers")
    arguments = ("--cache-dir", str(folder / "cache"), "--state", str(folder / "state.db"))
    with running_server(folder, arguments=arguments) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.grpc_address) as client:
        yield client


@pytest.fixture
def obs(client):
    """A normalizer of the test's own, which is not there yet."""
    return client.normalizer(f"test.{uuid.uuid4().hex}")


def same(ours, theirs):
    """Bit for bit the same state, in the same order."""
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert np.asarray(ours[name]).dtype == value.numpy().dtype
        assert np.asarray(ours[name]).tobytes() == value.numpy().tobytes(), name


class TestAgainstTorch:
    @pytest.mark.parametrize(
        "module",
        [
            nn.BatchNorm1d(4),
            nn.BatchNorm2d(4, momentum=None, dtype=torch.float64),
            nn.BatchNorm3d(4, 0.1, 0.5, affine=False),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
            nn.InstanceNorm1d(4),
        ],
        ids=str,
    )
    def test_a_layer_moves_into_the_service_and_back(self, obs, module):
        """It trains here, then there beside the one that stays here, and goes on here."""
        dtype = module.weight.dtype if module.affine else torch.float32
        layer = layer_of(module)
        rank = layer.dimensions + 2
        batches = [torch.randn(8, 4, *[5] * (rank - 2), dtype=dtype) + number for number in range(4)]
        module(batches[0])
        obs.create(layer)
        obs.load_state_dict(module.state_dict())
        remote = RemoteBatchNorm(obs)
        for batch in batches[1:]:
            np.testing.assert_allclose(remote(batch), module(batch).detach(), rtol=1e-5, atol=1e-5)
        if module.track_running_stats and layer.momentum is not None:
            same(obs.state_dict(), module.state_dict())
        back = type(module)(4, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, dtype=dtype)
        back.load_state_dict(remote.state_dict())
        same(obs.state_dict(), back.state_dict())
        np.testing.assert_allclose(remote.eval()(batches[0]), back.eval()(batches[0]).detach(), rtol=1e-5, atol=1e-5)

    def test_what_torch_says_of_an_input(self, obs):
        obs.create(BatchNormLayer(4, 2))
        with pytest.raises(InvalidArgumentError, match="expected 4D input"):
            obs.apply(X)
        obs.update(momentum=None)
        with pytest.raises(InvalidArgumentError, match="more than 1 value per channel when training"):
            obs.observe(np.zeros((1, 4, 1, 1), np.float32))
        assert obs.get().sequence == 0

    def test_a_state_of_another_kind(self, obs):
        obs.create(BatchNormLayer(4))
        before = obs.state_dict()
        for state in (nn.BatchNorm1d(5).state_dict(), nn.Linear(4, 4).state_dict(), {}):
            with pytest.raises(InvalidArgumentError):
                obs.load_state_dict(state)
            with pytest.raises(RuntimeError, match="RemoteBatchNorm"):
                RemoteBatchNorm(obs).load_state_dict(state)
        after = obs.state_dict()
        assert all(np.array_equal(after[name], array) for name, array in before.items())


class TestLife:
    @pytest.mark.parametrize(
        "layer",
        [
            BatchNormLayer(4, momentum=None),
            InstanceNormLayer(4, 1, affine=True, track_running_stats=True, dtype="float64"),
            RunningNormLayer((4,), clip=5.0),
        ],
        ids=lambda layer: type(layer).__name__,
    )
    def test_all_of_it(self, client, obs, layer):
        info = obs.create(layer, training=False)
        assert (info.name, info.layer, info.training, info.sequence) == (obs.name, layer, False, 0)
        assert obs.create(layer, training=False) == info
        x = X.reshape(2, 4, 4).astype(np.float64) if isinstance(layer, InstanceNormLayer) else X
        assert obs.observe(x) == 1
        output, sequence = obs.apply_numbered(x, training=True)
        assert (output.shape, output.dtype, sequence) == (x.shape, x.dtype, 2)
        assert obs.apply_numbered(x).sequence == 2
        assert obs.name in [info.name for info in client.normalizers(page_size=1)]
        copy = client.normalizer(f"{obs.name}.copy")
        assert copy.restore(obs.snapshot()).layer == layer
        assert not copy.get().training
        assert np.array_equal(copy.apply(x), obs.apply(x))
        obs.delete()
        with pytest.raises(NotFoundError, match=obs.name):
            obs.apply(x)
        obs.delete(missing_ok=True)

    def test_changes(self, obs):
        obs.create(BatchNormLayer(4))
        for momentum in (None, 0.5, 0.0):
            assert obs.update(momentum=momentum).layer.momentum == momentum
        info = obs.update(training=False)
        assert (info.training, info.layer.momentum) == (False, 0.0)

    def test_clips(self, obs):
        obs.create(RunningNormLayer((4,), clip=5))
        assert obs.update(clip=None).layer.clip is None
        assert obs.update(clip=0.5).layer.clip == 0.5
        obs.observe(X)
        assert np.abs(obs.apply(X, training=False)).max() == 0.5

    def test_etags(self, obs):
        etag = obs.create(BatchNormLayer(4)).etag
        obs.observe(X)
        for change in (
            lambda: obs.update(momentum=0.5, etag=etag),
            lambda: obs.load_state_dict(nn.BatchNorm1d(4).state_dict(), etag=etag),
            lambda: obs.delete(etag=etag),
        ):
            with pytest.raises(AbortedError, match=etag):
                change()
        state = obs.state_dict()
        assert obs.load_state_dict(state, etag=state.etag).etag != state.etag
        assert state.sequence == 1

    def test_a_name_that_is_taken(self, obs):
        obs.create(BatchNormLayer(4))
        with pytest.raises(AlreadyExistsError, match=obs.name):
            obs.create(BatchNormLayer(5))

    @pytest.mark.parametrize("name", ["", "-a", "a/b", "a" * 64, "ä"])
    def test_names_that_cannot_be(self, client, name):
        with pytest.raises(InvalidArgumentError):
            client.normalizer(name).create(BatchNormLayer(4))
        with pytest.raises(InvalidArgumentError):
            client.normalizer(name).get()


class TestManyCallers:
    def test_threads_give_what_one_caller_would(self, obs):
        obs.create(RunningNormLayer((4,)))
        batches = RANDOM.normal(5, 3, (200, 7, 4))
        with ThreadPoolExecutor(16) as pool:
            sequences = sorted(pool.map(obs.observe, batches))
        state = obs.state_dict()
        assert sequences == list(range(1, 201))
        np.testing.assert_allclose(state["mean"], batches.reshape(-1, 4).mean(0), rtol=1e-12)
        np.testing.assert_allclose(state["var"], batches.reshape(-1, 4).var(0), rtol=1e-12)
        assert state["count"] == 1400

    async def test_coroutines(self, server, obs):
        await asyncio.to_thread(obs.create, BatchNormLayer(4, momentum=None))
        async with AsyncClient(server.grpc_address) as client:
            normalizer = client.normalizer(obs.name)
            outputs = await asyncio.gather(*(normalizer.apply(X + number) for number in range(50)))
            state = await normalizer.state_dict()
        assert all(np.allclose(output, outputs[0], atol=1e-4) for output in outputs)
        np.testing.assert_allclose(state["running_mean"], X.mean(0) + 24.5, rtol=1e-6)
        assert state["num_batches_tracked"] == 50


@pytest.mark.parametrize("verb", ["observe", "apply"])
def test_an_answer_that_is_lost_is_asked_for_again_and_nothing_is_done_twice(server, obs, verb):
    obs.create(BatchNormLayer(4))
    with DeafProxy(server.grpc_address).running() as proxy, Client(proxy.address) as far:
        called = getattr(far.normalizer(obs.name), verb)
        called(X)
        proxy.deaf.set()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(called, X, timeout=30)
            deadline = time.monotonic() + 10
            while obs.get().sequence < 2:  # it has been carried out, and nobody has been told
                assert time.monotonic() < deadline
                threading.Event().wait(0.01)
            proxy.cut()
            answer = waiting.result(30)
    info = obs.get()
    assert info.sequence == 2
    if verb == "observe":
        assert answer == 2
    assert obs.state_dict()["num_batches_tracked"] == 2
