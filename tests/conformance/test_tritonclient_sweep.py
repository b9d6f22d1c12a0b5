"""Every method of Triton's client, threaded and asyncio, in a process of its own: what it answers is what it means."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from normserve.testing import RunningServer, running_server

pytest.importorskip("tritonclient.grpc", reason="the dependency group `conformance` is not installed")

SCRIPT = Path(__file__).with_name("sweep_tritonclient.py")
IMAGES = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)  # as the script's


@pytest.fixture(scope="module")
def server(digits_repository: Path, cache_dir: Path) -> Iterator[RunningServer]:
    flags = ("--cache-dir", str(cache_dir), "--allow-shared-memory", "--model-control-mode", "explicit")
    with running_server(digits_repository, arguments=(*flags, "--load-model", "digits")) as server:
        yield server


@pytest.fixture(scope="module", params=["sync", "aio"])
def told(request: pytest.FixtureRequest, server: RunningServer) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), server.grpc_address, request.param]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected(digits_logits: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return digits_logits(IMAGES)


def test_no_method_is_left_out(told: dict[str, Any]) -> None:
    assert told["left"] == []


def test_the_server(told: dict[str, Any]) -> None:
    assert (told["live"], told["ready"]) == (True, True)
    assert told["server"]["name"] == "normserve"
    assert {"statistics", "model_repository", "system_shared_memory", "classification"} <= set(told["server"]["extensions"])


def test_log_and_trace_settings(told: dict[str, Any]) -> None:
    assert told["log"]["settings"]["log_info"] == {"bool_param": True}
    assert told["log_updated"] == told["log"]
    assert told["log_refused"] == "StatusCode.INVALID_ARGUMENT"
    assert told["trace"]["settings"]["trace_level"] == {"value": ["OFF"]}
    assert told["trace_updated"]["settings"]["trace_rate"] == {"value": ["500"]}
    assert told["trace_cleared"] == told["trace"]


def test_the_model(told: dict[str, Any]) -> None:
    assert told["model_ready"]
    metadata, config = told["metadata"], told["config"]["config"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]}]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["-1", "10"]}]
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] == config["platform"] == "onnxruntime_onnx"
    assert (config["name"], config["max_batch_size"]) == ("digits", 64)
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"]] == [("image", "TYPE_FP32", ["1", "8", "8"])]
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["output"]] == [("logits", "TYPE_FP32", ["10"])]
    assert told["index"]["models"][0] == {"name": "digits", "version": "1", "state": "READY"}


def test_the_statistics_count_what_was_asked(told: dict[str, Any]) -> None:
    (model,) = told["statistics"]["model_stats"]
    assert (model["name"], model["version"]) == ("digits", "1")
    inference = model["inference_stats"]
    calls = int(inference["success"]["count"])
    assert calls >= 5
    assert int(model["inference_count"]) == 3 * calls
    assert {int(inference[part]["count"]) for part in ("queue", "compute_input", "compute_infer", "compute_output")} == {calls}
    assert told["all_statistics"]["model_stats"][0] == model


def test_inference(told: dict[str, Any], expected: np.ndarray) -> None:
    np.testing.assert_array_equal(np.float32(told["plain"]), expected)
    np.testing.assert_array_equal(np.float32(told["full"]), expected)
    assert told["response"] == ["digits", "1", "42"]
    assert told["sequence"] == "StatusCode.UNIMPLEMENTED"


def test_classification(told: dict[str, Any], expected: np.ndarray) -> None:
    for cells, logits in zip(told["classes"], expected, strict=True):
        best = [(float(value), int(index)) for value, index in (cell.split(":")[:2] for cell in cells)]
        assert [index for _, index in best] == list(np.argsort(-logits)[:2])
        np.testing.assert_allclose([value for value, _ in best], np.sort(logits)[:-3:-1], rtol=1e-5)


def test_shared_memory(told: dict[str, Any], expected: np.ndarray) -> None:
    assert (told["register"], told["twice"]) == (None, "StatusCode.ALREADY_EXISTS")
    regions = told["status"]["regions"]
    assert {name: (int(region.get("offset", 0)), int(region["byte_size"])) for name, region in regions.items()} == {
        "in": (0, IMAGES.nbytes),
        "out": (IMAGES.nbytes, expected.nbytes),
    }
    assert told["in_message"] == [[]]
    np.testing.assert_array_equal(np.float32(told["in_region"]), expected)
    assert (told["unregister"], told["unregister_all"], told["status_then"]) == (None, None, {})


def test_cuda_shared_memory_is_refused_in_words_and_unregistered_in_vain(told: dict[str, Any]) -> None:
    assert (told["cuda_status"], told["cuda_unregister"]) == ({}, None)
    assert told["cuda_register"] == "StatusCode.UNIMPLEMENTED"


def test_callbacks_and_streams(told: dict[str, Any], expected: np.ndarray) -> None:
    if "async" in told:
        np.testing.assert_array_equal(np.float32(told["async"]), expected)
    answer, error = told["stream"]
    np.testing.assert_array_equal(np.float32(answer), expected)
    assert "no model 'nothing'" in error


def test_load_and_unload(told: dict[str, Any]) -> None:
    assert (told["load"], told["unload"], told["load_again"]) == (None, None, None)
    assert told["too_many_now"] == "StatusCode.INVALID_ARGUMENT"
    assert (told["unloaded"], told["loaded"]) == (False, True)
