"""Clients that others wrote, installed where the tests need them, and what they must get as answers."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from normserve.testing import RunningServer

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache"  # kept from run to run; git ignores it


def installed(client: str) -> str:
    """The program that runs a client; skips where it cannot be installed."""
    command = [sys.executable, str(HERE / "install_client.py"), client, str(CACHE / client)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    return done.stdout.strip()


@pytest.fixture(scope="session")
def perf_analyzer() -> str:
    """Triton's load generator."""
    return installed("perf_analyzer")


@pytest.fixture(scope="session")
def kserve_python() -> str:
    """The Python of an environment that holds kserve."""
    return installed("kserve")


@pytest.fixture(scope="session")
def digits_logits(cache_dir: Path, digits_server: RunningServer) -> Callable[[np.ndarray], np.ndarray]:
    """What onnxruntime itself makes of images, [N, 1, 8, 8] float32, by the very file that the server runs."""
    artifacts = cache_dir.glob("*/model.onnx")
    sessions = (onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"]) for artifact in artifacts)
    session = next(session for session in sessions if session.get_outputs()[0].name == "logits")
    return lambda images: session.run(["logits"], {"image": images})[0]
