"""kserve's gRPC client, unmodified, in an environment and a process of its own."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from normserve.testing import RunningServer

SCRIPT = Path(__file__).with_name("kserve_client.py")
IMAGES = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)  # as the script's


@pytest.fixture(scope="module")
def told(kserve_python: str, digits_server: RunningServer) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [kserve_python, str(SCRIPT), digits_server.grpc_address]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_health(told: dict[str, Any]) -> None:
    assert (told["live"], told["ready"], told["model_ready"]) == (True, True, True)


@pytest.mark.parametrize("kind", ["raw", "typed"])
def test_inference(told: dict[str, Any], kind: str, digits_logits: Callable[[np.ndarray], np.ndarray]) -> None:
    answer = told[kind]
    assert answer["model"] == ["digits", "1", "42"]
    assert answer["output"] == ["logits", "FP32", [3, 10]]
    np.testing.assert_array_equal(np.float32(answer["logits"]), digits_logits(IMAGES))


def test_errors_reach_it_as_they_are(told: dict[str, Any]) -> None:
    assert told["unknown"][0] == "NOT_FOUND"
    assert told["wrong"][0] == "INVALID_ARGUMENT"
    assert "[1, 8, 8, 1]" in told["wrong"][1]
