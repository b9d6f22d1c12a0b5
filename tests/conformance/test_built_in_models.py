"""The built-in models by Triton's own client and load generator, against torch."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from normserve.testing import RunningServer, running_server

triton = pytest.importorskip("tritonclient.grpc", reason="the dependency group `conformance` is not installed")

X = np.random.default_rng(3).normal(1, 2, (2, 4, 5)).astype(np.float32)
W, B = (torch.linspace(-1, end, 4) for end in (1, 2))
# Three windows are taken for stable: this is no measurement.
QUICK = ("--measurement-interval", "100", "--stability-percentage", "1000000", "--max-trials", "3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("empty"), arguments=("--allow-shared-memory",)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_address) as client:
        yield client


@pytest.mark.parametrize(
    ("operator", "parameters", "wanted"),
    [
        ("batch_norm", {"training": True, "eps": 1e-3}, lambda x: F.batch_norm(x, None, None, W, B, True, 0.1, 1e-3)),
        ("instance_norm", {}, lambda x: F.instance_norm(x, weight=W, bias=B)),
        ("layer_norm", {"normalized_shape": "4,5"}, lambda x: F.layer_norm(x, (4, 5))),
        ("group_norm", {"num_groups": 2}, lambda x: F.group_norm(x, 2, W, B)),
        ("rms_norm", {"normalized_shape": 5}, lambda x: F.rms_norm(x, (5,))),
        ("local_response_norm", {"size": 3, "alpha": 0.1}, lambda x: F.local_response_norm(x, 3, 0.1)),
        ("normalize", {"p": 3.0, "dim": 2}, lambda x: F.normalize(x, 3.0, 2)),
    ],
)
def test_its_client_calls_them(client, operator, parameters, wanted) -> None:
    config = client.get_model_config(f"normserve.{operator}").config
    given = {"input": X, "weight": W.numpy(), "bias": B.numpy()}
    takes = {"input"} if operator in {"layer_norm", "rms_norm"} else {tensor.name for tensor in config.input}
    inputs = []
    for name in given.keys() & takes:
        inputs.append(triton.InferInput(name, given[name].shape, "FP32"))
        inputs[-1].set_data_from_numpy(given[name])
    result = client.infer(f"normserve.{operator}", inputs, parameters=parameters)
    np.testing.assert_array_equal(result.as_numpy("output"), wanted(torch.from_numpy(X)).numpy())


STATISTICS = ("weight:4", "bias:4", "running_mean:4", "running_var:4")
CALLS = [  # it has to be told the shape of every input, and asks for every output
    ("batch_norm", (*STATISTICS, "num_batches_tracked:1"), ()),
    ("batch_norm", (*STATISTICS, "num_batches_tracked:1"), ("training:true:bool",)),
    ("instance_norm", STATISTICS, ("eps:0.001:double",)),
    ("layer_norm", ("weight:4,5", "bias:4,5"), ("normalized_shape:4,5:string",)),
    ("group_norm", ("weight:4", "bias:4"), ("num_groups:2:int",)),
    ("rms_norm", ("weight:5",), ("normalized_shape:5:int",)),
    ("local_response_norm", (), ("size:3:int",)),
    ("normalize", (), ()),
]


def drive(program: str, server: RunningServer, operator: str, shapes, parameters, *way: str) -> None:
    command = [program, "-m", f"normserve.{operator}", "-i", "grpc", "--service-kind", "triton", "-u", server.grpc_address]
    for shape in ("input:2,4,5", *shapes):
        command += ["--shape", shape]
    for parameter in parameters:
        command += ["--request-parameter", parameter]
    done = subprocess.run([*command, *QUICK, *way], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("operator", "shapes", "parameters"), CALLS)
def test_its_load_generator_drives_them(perf_analyzer, server, client, operator, shapes, parameters) -> None:
    zeros = ("--input-data", "zero") if any("num_batches_tracked" in shape for shape in shapes) else ()
    before = client.get_inference_statistics(f"normserve.{operator}").model_stats[0].inference_stats
    drive(perf_analyzer, server, operator, shapes, parameters, "--concurrency-range", "4", *zeros)
    after = client.get_inference_statistics(f"normserve.{operator}").model_stats[0].inference_stats
    assert after.success.count > before.success.count
    assert after.fail.count == before.fail.count


@pytest.mark.parametrize(
    "way", [("--streaming",), ("--shared-memory", "system", "--output-shared-memory-size", "160")], ids=["stream", "memory"]
)
def test_its_load_generator_streams_and_shares_memory(perf_analyzer, server, tmp_path: Path, way: tuple[str, ...]) -> None:
    report = tmp_path / "requests.json"
    drive(perf_analyzer, server, "normalize", (), ("p:1:int",), *way, "--profile-export-file", str(report))
    requests = [r for experiment in json.loads(report.read_text())["experiments"] for r in experiment["requests"]]
    assert requests
    for request in requests if "--streaming" in way else ():
        x = torch.tensor(request["request_inputs"]["input"], dtype=torch.float32).reshape(2, 4, 5)
        assert x.any()
        (outputs,) = request["response_outputs"]
        np.testing.assert_allclose(outputs["output"], F.normalize(x, 1.0).numpy().ravel(), rtol=1e-4, atol=1e-6)
