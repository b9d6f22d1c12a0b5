"""The service's work on a device: the same numbers as on the host, and times that tell copies from kernels."""

import re
import subprocess
import sys
import urllib.request

import numpy as np
import onnxruntime as ort
import pytest
from fake_device import FakeAccelerator
from normserve import Client
from normserve.testing import running_server
from normserve_server import operators
from normserve_server.accelerators.tuning import Tuning
from normserve_server.devices import CPU, CUDA
from normserve_server.operators import Place as Where
from normserve_server.profiling.measuring import measure
from normserve_server.profiling.subject import Subject

BROKEN = """
import os
import torch
from normserve_server.accelerators.opened import open_one
from normserve_server.devices import CUDA, Device
accelerator = open_one(Device(CUDA, 0))
assert accelerator.broken() is None
torch.zeros(1, device="cuda:0")[torch.tensor([7], device="cuda:0")]  # beyond the end: an assertion on the device
print("broken:", accelerator.broken(), flush=True)
os._exit(0)  # where nothing works any more, leaving may fail, too
"""


@pytest.mark.parametrize("operator", ["layer_norm", "group_norm", "batch_norm", "rms_norm", "normalize"])
def test_operators_give_the_hosts_numbers(accelerator, operator):
    x = np.random.default_rng(0).normal(size=(64, 64, 128)).astype(np.float32)  # 2 MB: enough to be taken to the device
    channels = np.linspace(0.5, 2, 64, dtype=np.float32)
    compute = {
        "layer_norm": lambda given: operators.layer_norm(given, (128,)),
        "group_norm": lambda given: operators.group_norm(given, 8, channels, channels),
        "batch_norm": lambda given: operators.batch_norm(given, channels, channels, channels, channels),
        "rms_norm": lambda given: operators.rms_norm(given, (128,)),
        "normalize": operators.normalize,
    }[operator]
    failures = []
    where = Where(accelerator, lambda: failures.append(1))
    assert where.takes(x)
    np.testing.assert_allclose(where.run(x, compute).output, compute(x).output, rtol=1e-4, atol=1e-5)
    assert not failures


def test_a_run_is_told_apart(accelerator, tmp_path, adder):
    (tmp_path / "model.onnx").write_bytes(adder(1, layers=4))
    found = measure(Subject(tmp_path / "model.onnx", {}, 64, 5, 1, Tuning()), accelerator)
    assert min(found.times.copy_in, found.times.run, found.times.copy_out) > 0
    assert {operator.name for operator in found.operators} >= {"MatMul", "Add"}


@pytest.fixture
def server(place, request):
    """A server of the digits network on the card; in the suite, the suite's."""
    if not place.real:
        yield request.getfixturevalue("digits_server")
        return
    arguments = ("--cache-dir", str(request.getfixturevalue("cache_dir")))
    with running_server(request.getfixturevalue("digits_repository"), device=place.setting, arguments=arguments) as server:
        yield server


def test_a_server_answers_with_the_hosts_numbers(server, digits_repository):
    images = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    alone = ort.InferenceSession(digits_repository / "digits" / "1" / "model.onnx", providers=[CPU])
    with Client(server.grpc_address) as client:
        found = client.infer("digits", {"image": images})["logits"]
    np.testing.assert_allclose(found, alone.run(["logits"], {"image": images})[0], rtol=1e-3, atol=1e-3)


def test_a_server_says_where_it_computes_and_what_the_card_does(server, place):
    with Client(server.grpc_address) as client:
        properties = client.metadata("digits").properties
    assert (CUDA if place.real else CPU) in properties.values()
    with urllib.request.urlopen(f"http://{server.http_address}/metrics") as answer:
        metrics = answer.read().decode()
    gauges = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes", "nv_gpu_power_usage"}
    told = set(re.findall(r"^(nv_gpu_\w+){gpu_uuid=.*} \d", metrics, re.MULTILINE))
    assert told >= gauges if place.real else told <= gauges


def test_a_sticky_error_is_noticed(place):
    """On a card in a process of its own, for nothing works there any more."""
    if place.real:
        done = subprocess.run([sys.executable, "-c", BROKEN], check=True, capture_output=True, text=True, timeout=120)
        assert "CUDA" in done.stdout.partition("broken:")[2]
        return
    accelerator = FakeAccelerator()
    accelerator.broken_by = "CUDA error: an illegal memory access was encountered"
    assert accelerator.broken() == accelerator.broken_by
