"""The operators through a real server against torch.nn.functional, argument by argument."""

import ml_dtypes
import numpy as np
import pytest
import torch
from normserve import Client, InvalidArgumentError
from normserve.testing import running_server

F = torch.nn.functional
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(3, 2, (4, 6, 5, 5)).astype(np.float32)
MEAN, VAR, WEIGHT, BIAS = (RANDOM.random(6, np.float32) + 0.5 for _ in range(4))
ROW = RANDOM.random(5, np.float32)
BIG = RANDOM.random((64, 64, 32, 32), np.float32)
ONES = np.ones(64, np.float32)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nothing")
    with running_server(folder, arguments=("--cache-dir", str(folder))) as server, Client(server.grpc_address) as client:
        yield client


def theirs(operator, arguments, options):
    tensors = [torch.tensor(value) if isinstance(value, np.ndarray) else value for value in arguments]
    keywords = {key: torch.tensor(value) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    return getattr(F, operator)(*tensors, **keywords).numpy(), tensors


@pytest.mark.parametrize(
    ("operator", "arguments", "options"),
    [
        ("batch_norm", (X, MEAN, VAR), {}),
        ("batch_norm", (X, MEAN, VAR, WEIGHT, BIAS, False, 0.1, 1e-3), {}),
        ("batch_norm", (X.astype(np.float64), MEAN.astype(np.float64), VAR.astype(np.float64)), {}),
        ("batch_norm", (BIG, ONES, ONES), {}),
        ("layer_norm", (X, (5,)), {"weight": ROW, "bias": -ROW}),
        ("layer_norm", (X, (6, 5, 5)), {"eps": 0.1}),
        ("instance_norm", (X,), {}),
        ("instance_norm", (X, None, None, WEIGHT, BIAS), {}),
        ("instance_norm", (X, MEAN, VAR), {"use_input_stats": False}),
        ("group_norm", (X, 3, WEIGHT, BIAS), {}),
        ("group_norm", (X, 1), {"eps": 1.0}),
        ("rms_norm", (X, (5, 5)), {}),
        ("rms_norm", (X, (5,), ROW, 0.5), {}),
        ("local_response_norm", (X, 3), {}),
        ("local_response_norm", (X, 4, 0.5, 2.0, 0.25), {}),
        ("normalize", (X,), {}),
        ("normalize", (X, np.inf, -1), {"eps": 3.0}),
    ],
)
def test_results(client, operator, arguments, options):
    output = getattr(client, operator)(*arguments, **options)
    wanted, _ = theirs(operator, arguments, options)
    assert output.dtype == wanted.dtype
    np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_training_gives_what_torch_writes_in_place(client, momentum):
    mean, var = MEAN.copy(), VAR.copy()
    result = client.batch_norm(X, mean, var, training=True, momentum=momentum)
    wanted, tensors = theirs("batch_norm", (X, MEAN, VAR), {"training": True, "momentum": momentum})
    np.testing.assert_allclose(result.output, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.running_mean, tensors[1], rtol=1e-5)
    np.testing.assert_allclose(result.running_var, tensors[2], rtol=1e-5)
    assert np.array_equal(mean, MEAN)
    assert np.array_equal(var, VAR)


def test_instance_norm_gives_what_torch_writes_in_place(client):
    result = client.instance_norm(X, MEAN, VAR)
    wanted, tensors = theirs("instance_norm", (X, MEAN, VAR), {})
    np.testing.assert_allclose(result.output, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.running_mean, tensors[1], rtol=1e-5)
    np.testing.assert_allclose(result.running_var, tensors[2], rtol=1e-5)


def test_the_average_over_all_batches_is_the_layers(client):
    layer = torch.nn.BatchNorm2d(6, momentum=None, affine=False)
    mean, var = np.zeros(6, np.float32), np.ones(6, np.float32)
    for seen in range(3):
        batch = X * (seen + 1)
        _, mean, var = client.batch_norm(batch, mean, var, training=True, momentum=None, num_batches_tracked=seen)
        layer(torch.tensor(batch))
    np.testing.assert_allclose(mean, layer.running_mean, rtol=1e-5)
    np.testing.assert_allclose(var, layer.running_var, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_rounded_once(client, dtype):
    half = X.astype(dtype)
    output = client.layer_norm(half, (5,))
    wanted, _ = theirs("layer_norm", (half.astype(np.float32), (5,)), {})
    assert output.dtype == dtype
    np.testing.assert_allclose(output.astype(np.float32), wanted.astype(dtype).astype(np.float32), rtol=1e-2)


@pytest.mark.parametrize(
    ("operator", "arguments", "options"),
    [
        ("batch_norm", (X[:1, :, :1, :1], MEAN, VAR), {"training": True}),
        ("batch_norm", (X, None, None), {}),
        ("group_norm", (X, 4), {}),
        ("layer_norm", (X, (7,)), {}),
        ("instance_norm", (X[:, :, :1, :1],), {}),
        ("local_response_norm", (X[0, 0], 3), {}),
        ("normalize", (X, 2.0, 4), {}),
    ],
)
def test_what_torch_refuses_is_an_invalid_argument(client, operator, arguments, options):
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        theirs(operator, arguments, options)
    with pytest.raises(InvalidArgumentError):
        getattr(client, operator)(*arguments, **options)


def test_integers_are_refused(client):
    with pytest.raises(InvalidArgumentError):
        client.layer_norm(np.ones((2, 3), np.int64), (3,))
