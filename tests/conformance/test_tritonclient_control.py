"""Triton's own client loads and unloads models, with a config and files of its own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from normserve.testing import running_server

pytest.importorskip("tritonclient.grpc", reason="the dependency group `conformance` is not installed")

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

WIDTH = 256


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, publish: Callable[..., Path]) -> Path:
    repository = tmp_path_factory.mktemp("controlled")
    publish(repository / "m/1", 1)
    publish(repository / "n/1", 1)
    return repository


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[triton.InferenceServerClient]:
    arguments = ("--no-fold", "--model-control-mode", "explicit")
    with (
        running_server(repository, arguments=arguments) as server,
        triton.InferenceServerClient(server.grpc_address) as client,
    ):
        yield client


def states(client: triton.InferenceServerClient, name: str) -> list[tuple[str, str, str]]:
    models = client.get_model_repository_index().models
    return [(model.version, model.state, model.reason) for model in models if model.name == name]


def answer(client: triton.InferenceServerClient, model: str) -> float:
    x = triton.InferInput("x", [1, WIDTH], "FP32")
    x.set_data_from_numpy(np.zeros((1, WIDTH), np.float32))
    return client.infer(model, [x]).as_numpy("y")[0, 0]


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as error:
        call()
    return error.value.status(), error.value.message()


def test_load_and_unload(client: triton.InferenceServerClient) -> None:
    assert client.is_server_ready()
    assert states(client, "m") == [("1", "UNAVAILABLE", "not loaded")]
    assert refusal(lambda: answer(client, "m"))[0] == "StatusCode.UNAVAILABLE"
    client.load_model("m")
    assert (client.is_model_ready("m"), answer(client, "m")) == (True, 1)
    client.unload_model("m", unload_dependents=True)
    assert states(client, "m") == [("1", "UNAVAILABLE", "unloaded")]
    assert not client.is_model_ready("m")
    assert client.is_server_ready()
    assert refusal(lambda: client.unload_model("none"))[0] == "StatusCode.NOT_FOUND"


def test_a_config_and_files_of_its_own(client: triton.InferenceServerClient, adder: Callable[..., bytes]) -> None:
    config = json.dumps({"backend": "onnxruntime", "max_batch_size": 2, "version_policy": {"specific": {"versions": [3]}}})
    files = {"file:3/model.onnx": adder(3), "file:2/model.onnx": adder(2)}
    client.load_model("n", config=config, files=files)
    assert (states(client, "n"), answer(client, "n")) == ([("3", "READY", "")], 3)
    client.load_model("n", config=json.dumps({"max_batch_size": 4}))
    assert answer(client, "n") == 1  # a config alone is for the folder's files
    for arguments, status in (
        ({"config": "{}", "files": {"file:1/model.onnx": b"nothing"}}, "INTERNAL"),
        ({"files": files}, "INVALID_ARGUMENT"),
        ({"config": "{}", "files": {"file:../n/1/model.onnx": b""}}, "INVALID_ARGUMENT"),
        ({"config": '{"max_batch_size": "many"}'}, "INVALID_ARGUMENT"),
        ({"config": "{}", "files": {"nonsense": b""}}, "INVALID_ARGUMENT"),
    ):
        code, text = refusal(lambda arguments=arguments: client.load_model("n", **arguments))
        assert code == f"StatusCode.{status}"
        assert text
        assert answer(client, "n") == 1


def test_another_mode_says_so(repository: Path) -> None:
    with (
        running_server(repository, arguments=("--no-fold",)) as server,
        triton.InferenceServerClient(server.grpc_address) as client,
    ):
        for call in (lambda: client.load_model("m"), lambda: client.unload_model("m")):
            code, text = refusal(call)
            assert (code, "--model-control-mode explicit" in text) == ("StatusCode.UNAVAILABLE", True)
        assert answer(client, "m") == 1
