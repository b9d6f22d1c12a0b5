"""Triton's own client, unmodified, against a real server: the same numbers as the in-process session."""

import asyncio
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from normserve.testing import RunningServer
from normserve_models.zoo import digits_data

pytest.importorskip("tritonclient.grpc", reason="the dependency group `conformance` is not installed")

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

SAMPLES = 16


@pytest.fixture(scope="module")
def client(digits_server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(digits_server.grpc_address) as client:
        yield client


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return digits_data.held_out()[0][:SAMPLES]


@pytest.fixture(scope="module")
def expected(digits_logits: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    return digits_logits(images)


def tensors(module, images: np.ndarray) -> tuple[list, list]:
    image = module.InferInput("image", images.shape, "FP32")
    image.set_data_from_numpy(images)
    return [image], [module.InferRequestedOutput("logits")]


def test_the_same_numbers_as_in_process(client, images, expected) -> None:
    inputs, outputs = tensors(triton, images)
    result = client.infer("digits", inputs, outputs=outputs, request_id="42", client_timeout=30)
    np.testing.assert_array_equal(result.as_numpy("logits"), expected)
    assert result.get_response().id == "42"
    assert (expected.argmax(1) == digits_data.held_out()[1][:SAMPLES]).mean() > 0.9


def test_the_asyncio_client_too(digits_server: RunningServer, images, expected) -> None:
    async def infer() -> np.ndarray:
        async with triton_aio.InferenceServerClient(digits_server.grpc_address) as client:
            inputs, outputs = tensors(triton_aio, images)
            return (await client.infer("digits", inputs, outputs=outputs)).as_numpy("logits")

    np.testing.assert_array_equal(asyncio.run(infer()), expected)


def test_many_at_once_get_their_own_answers(client, images, expected) -> None:
    done = []
    for position in range(SAMPLES):
        inputs, _ = tensors(triton, images[position : position + 1])
        client.async_infer("digits", inputs, callback=lambda result, error, p=position: done.append((p, result, error)))
    assert asyncio.run(_comes_true(lambda: len(done) == SAMPLES))
    for position, result, error in done:
        assert error is None
        np.testing.assert_allclose(result.as_numpy("logits")[0], expected[position], rtol=1e-5, atol=1e-5)


async def _comes_true(condition, seconds: float = 20) -> bool:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return True
        await asyncio.sleep(0.05)
    return False


def test_what_it_asks_besides(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.get_server_metadata().name == "normserve"
    metadata = client.get_model_metadata("digits", as_json=True)
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]}]
    index = client.get_model_repository_index().models
    assert {model.name: model.state for model in index}["digits"] == "READY"


@pytest.mark.parametrize(
    ("model", "version", "shape", "status"),
    [
        ("nothing", "", (1, 1, 8, 8), "StatusCode.NOT_FOUND"),
        ("digits", "9", (1, 1, 8, 8), "StatusCode.NOT_FOUND"),
        ("digits", "", (1, 8, 8, 1), "StatusCode.INVALID_ARGUMENT"),
    ],
)
def test_errors_reach_it_as_its_own(client, model: str, version: str, shape: tuple[int, ...], status: str) -> None:
    inputs, _ = tensors(triton, np.zeros(shape, np.float32))
    with pytest.raises(InferenceServerException) as error:
        client.infer(model, inputs, model_version=version)
    assert error.value.status() == status
