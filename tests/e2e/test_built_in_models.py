"""The normalization operators as models of a real server."""

import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
from normserve import Client
from normserve.errors import InvalidArgumentError, NotFoundError
from normserve.testing import RunningServer, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from normserve_server import operators

MODELS = [
    "normserve.batch_norm",
    "normserve.group_norm",
    "normserve.instance_norm",
    "normserve.layer_norm",
    "normserve.local_response_norm",
    "normserve.normalize",
    "normserve.rms_norm",
]
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
RNG = np.random.default_rng(5)
CHANNELS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that has nothing else."""
    with running_server(tmp_path_factory.mktemp("empty"), arguments=("--allow-shared-memory",)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.grpc_address) as client:
        yield client


def draw(dtype: Any, *shape: int) -> np.ndarray:
    return (np.abs(RNG.normal(1, 2, shape)) + 0.1).astype(dtype)


def affine(dtype: Any, *shape: int) -> dict[str, np.ndarray]:
    return {"weight": draw(dtype, *shape), "bias": draw(dtype, *shape)}


def statistics(dtype: Any) -> dict[str, np.ndarray]:
    return {"running_mean": draw(dtype, CHANNELS), "running_var": draw(dtype, CHANNELS)}


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    assert got.tobytes() == wanted.tobytes()


CASES = [  # the operator, its tensors beside the input by dtype, its arguments as parameters, and as the operator takes them
    ("batch_norm", statistics, {}, {}),
    ("batch_norm", lambda dtype: {**statistics(dtype), **affine(dtype, CHANNELS)}, {"eps": 0.1}, {"eps": 0.1}),
    ("batch_norm", statistics, {"training": True, "momentum": "0.3"}, {"training": True, "momentum": 0.3}),
    ("instance_norm", lambda dtype: affine(dtype, CHANNELS), {}, {}),
    ("instance_norm", statistics, {"momentum": 1}, {"momentum": 1.0}),
    ("instance_norm", statistics, {"use_input_stats": "false"}, {"use_input_stats": False}),
    ("layer_norm", lambda dtype: affine(dtype, 5), {"normalized_shape": 5}, {"normalized_shape": (5,)}),
    ("layer_norm", lambda _: {}, {"normalized_shape": f"[{CHANNELS}, 5]"}, {"normalized_shape": (CHANNELS, 5)}),
    ("group_norm", lambda dtype: affine(dtype, CHANNELS), {"num_groups": 2}, {"num_groups": 2}),
    ("rms_norm", lambda dtype: {"weight": draw(dtype, 5)}, {"normalized_shape": "5"}, {"normalized_shape": (5,)}),
    ("local_response_norm", lambda _: {}, {"size": 2, "k": 2, "alpha": 0.5}, {"size": 2, "k": 2.0, "alpha": 0.5}),
    ("normalize", lambda _: {}, {"p": 1, "dim": -1}, {"p": 1.0, "dim": -1}),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("operator", "tensors", "parameters", "arguments"), CASES)
def test_the_operators_bit_for_bit(client, operator, tensors, parameters, arguments, dtype) -> None:
    trailing = operator in {"layer_norm", "rms_norm"}
    for shape in ((3, CHANNELS, 5), (2, 2, CHANNELS, 5) if trailing else (2, CHANNELS, 3, 5)):
        inputs = {"input": draw(dtype, *shape), **tensors(dtype)}
        got = client.infer(f"normserve.{operator}", inputs, parameters=parameters)
        defaults = {"running_mean": None, "running_var": None} if operator == "batch_norm" else {}
        wanted = getattr(operators, operator)(**{**defaults, **inputs, **arguments})
        present = {name: array for name, array in wanted._asdict().items() if array is not None}
        assert got.keys() == present.keys()
        for name, array in present.items():
            same(got[name], array)


@pytest.mark.parametrize("shape", [(0, CHANNELS, 5), (3, CHANNELS, 0)])
def test_no_elements(client, shape) -> None:
    array = np.ones(shape, np.float32)
    same(client.infer("normserve.normalize", {"input": array})["output"], array)


def test_float32_parameters_beside_halves(client) -> None:
    half = {"input": draw(np.float16, 3, CHANNELS), **statistics(np.float32)}
    got = client.infer("normserve.batch_norm", half, parameters={"training": True})
    assert {name: array.dtype for name, array in got.items()} == {
        "output": np.float16,
        "running_mean": np.float32,
        "running_var": np.float32,
    }


def test_a_layer_in_training(client) -> None:
    """As torch.nn.BatchNorm1d: the count goes along, and averages where momentum is None."""
    import torch

    layer = torch.nn.BatchNorm1d(CHANNELS, momentum=None)
    state = {name: array.numpy() for name, array in layer.state_dict().items()}
    for _ in range(3):
        batch = draw(np.float32, 8, CHANNELS)
        got = client.infer("normserve.batch_norm", {"input": batch, **state}, parameters={"training": True, "cumulative": True})
        same(got.pop("output"), layer(torch.from_numpy(batch)).detach().numpy())
        state.update(got)
    for name, tensor in layer.state_dict().items():
        same(state[name], tensor.numpy())


def test_training_on_two_axes_is_torchs_on_its_default_threads(client) -> None:
    """Wherever it is computed: PyTorch sums in an order that depends on its number of threads."""
    import torch

    for seed in range(30):
        batch = np.random.default_rng(seed).normal(1.5, 2.0, (6, CHANNELS)).astype(np.float32)
        wanted = torch.nn.functional.batch_norm(torch.from_numpy(batch), None, None, training=True).numpy()
        same(client.infer("normserve.batch_norm", {"input": batch}, parameters={"training": True})["output"], wanted)
        same(client.batch_norm(batch, None, None, training=True).output, wanted)


def test_statistics_come_when_they_change_or_are_asked_for(client) -> None:
    inputs = {"input": draw(np.float32, 3, CHANNELS), **statistics(np.float32), "num_batches_tracked": np.array([7])}
    names = ("running_mean", "running_var", "num_batches_tracked")
    assert client.infer("normserve.batch_norm", inputs).keys() == {"output"}
    asked = client.infer("normserve.batch_norm", inputs, outputs=["num_batches_tracked", "running_var", "running_mean"])
    for name in names:
        same(asked[name], inputs[name])
    trained = client.infer("normserve.batch_norm", inputs, parameters={"training": True})
    assert list(trained) == ["output", *names]
    assert trained["num_batches_tracked"].tolist() == [8]
    assert (trained["running_mean"] != inputs["running_mean"]).all()


X = np.ones((2, CHANNELS, 3), np.float32)
LAYER = {"normalized_shape": 3}


@pytest.mark.parametrize(
    ("operator", "inputs", "parameters", "text"),
    [
        ("layer_norm", {}, {}, "missing parameter 'normalized_shape' of normserve.layer_norm, an integer, or the text of"),
        ("layer_norm", {}, {**LAYER, "epsilon": 1.0}, "parameter 'epsilon' of normserve.layer_norm is unknown; there is norm"),
        ("layer_norm", {}, {**LAYER, "eps": "tiny"}, "parameter 'eps' is a number, got 'tiny'"),
        ("layer_norm", {}, {"normalized_shape": 4}, r"Given normalized_shape=\[4\], expected input with shape"),
        ("layer_norm", {"scale": X}, LAYER, "unknown input 'scale'; the model has input, weight, bias"),
        ("layer_norm", {"input": X.astype(np.int64)}, LAYER, "input 'input' is FP32, FP16, BF16, FP64, got INT64"),
        ("layer_norm", {"weight": np.ones(3)}, LAYER, "weight beside FP32 input is FP32, got FP64"),
        ("layer_norm", {"weight": np.ones(2, "f")}, LAYER, r"Expected weight to be of same shape as normalized_shape"),
        ("layer_norm", {"input": None}, LAYER, "missing input 'input'"),
        ("layer_norm", {"input": None, "weight": np.ones(3, "f")}, LAYER, "missing input 'input'; got weight"),
        ("layer_norm", {}, {**LAYER, "triton_x": 1}, "parameter 'triton_x': names that begin with triton_ are reserved"),
        ("batch_norm", {}, {}, "running_mean must be defined in evaluation mode"),
        ("batch_norm", {}, {"training": True, "eps": 0}, "eps"),
        ("batch_norm", {}, {"training": True, "momentum": 2}, r"momentum is in \[0, 1\], got 2"),
        ("batch_norm", {}, {"training": True, "cumulative": True}, "parameter 'cumulative' takes input 'num_batches_tracked'"),
        (
            "batch_norm",
            {"num_batches_tracked": np.array(-1)},
            {"training": True},
            "input 'num_batches_tracked' is one INT64 >= 0 that can be counted up, got -1",
        ),
        (
            "batch_norm",
            {"num_batches_tracked": np.array(1.0)},
            {"training": True},
            "input 'num_batches_tracked' is INT64, got FP64",
        ),
        ("instance_norm", {"input": X[:, :, :1]}, {}, "Expected more than 1 spatial element when training"),
        ("group_norm", {}, {"num_groups": 3}, "number of channels in input to be divisible by num_groups"),
        ("local_response_norm", {}, {"size": 0}, "size must be > 0, got 0"),
        ("normalize", {}, {"dim": 3}, "Dimension out of range"),
    ],
)
def test_refused_by_name(client, operator, inputs, parameters, text) -> None:
    given = {name: array for name, array in {"input": X, **inputs}.items() if array is not None}
    with pytest.raises(InvalidArgumentError, match=text):
        client.infer(f"normserve.{operator}", given, parameters=parameters)
    assert client.is_ready(f"normserve.{operator}")


def test_an_output_that_there_is_not(client) -> None:
    with pytest.raises(InvalidArgumentError, match="unknown output 'running_mean'; the model has output"):
        client.infer("normserve.instance_norm", {"input": X}, outputs=["running_mean"])


def test_listed_described_and_counted(client, server) -> None:
    listed = [(entry.name, entry.version, entry.state, entry.reason) for entry in client.models()]
    assert listed == [(name, "1", "READY", "") for name in MODELS]
    for name in MODELS:
        metadata = client.metadata(name)
        assert (metadata.platform, metadata.versions) == ("normserve_operator", ("1",))
        assert (metadata.inputs[0].name, metadata.inputs[0].datatype, metadata.inputs[0].shape) == ("input", "FP32", (-1,))
        assert metadata.outputs[0].name == "output"
        before = client.statistics(name)[0]
        with pytest.raises(InvalidArgumentError):
            client.infer(name, {"input": X}, parameters={"nothing": 1})
        after = client.statistics(name)[0]
        assert (after.fail.count - before.fail.count, after.success) == (1, before.success)
    with urllib.request.urlopen(f"http://{server.http_address}/metrics") as answer:
        metrics = answer.read().decode()
    for name in MODELS:
        assert f'normserve_model_ready{{model="{name}",version="1"}} 1.0' in metrics
        assert re.search(rf'normserve_requests_total{{code="INVALID_ARGUMENT",method="ModelInfer",model="{name}"', metrics)


def test_the_configuration_tells_what_is_optional_and_what_parameters_there_are(server) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        config = GRPCInferenceServiceStub(channel).ModelConfig(pb.ModelConfigRequest(name="normserve.batch_norm")).config
    optional = {tensor.name: tensor.optional for tensor in config.input}
    assert not optional.pop("input")
    assert optional == dict.fromkeys(("weight", "bias", "running_mean", "running_var", "num_batches_tracked"), True)
    assert [tensor.name for tensor in config.output] == ["output", "running_mean", "running_var", "num_batches_tracked"]
    assert {name: value.string_value for name, value in config.parameters.items()} == {
        "training": "a bool, or the text true or false; default false",
        "momentum": "a number; default 0.1",
        "eps": "a number; default 1e-5",
        "cumulative": "a bool, or the text true or false; default false",
    }
    assert (config.max_batch_size, config.backend, config.instance_group[0].count) == (0, "torch", 1)


def test_streams_and_shared_memory(client, server) -> None:
    requests = [{"input": draw(np.float32, 2, size)} for size in range(1, 40)]
    answers = [answer.outputs["output"] for answer in client.infer_stream("normserve.normalize", requests)]
    wanted = [operators.normalize(request["input"]).output for request in requests]
    for got, expected in zip(answers, wanted, strict=True):
        same(got, expected)
    big = {"input": draw(np.float32, 3, 500_000), **affine(np.float32, 500_000)}
    with Client(server.grpc_address, shared_memory=True) as sharing:
        for _ in range(3):
            got = sharing.infer("normserve.layer_norm", big, parameters={"normalized_shape": 500_000})
            same(got["output"], operators.layer_norm(**big, normalized_shape=(500_000,)).output)


def test_typed_contents(server) -> None:
    message = pb.ModelInferRequest(model_name="normserve.rms_norm")
    message.parameters["normalized_shape"].int64_param = 2
    message.inputs.add(name="input", datatype="FP32", shape=[1, 2]).contents.fp32_contents[:] = [3, 4]
    with grpc.insecure_channel(server.grpc_address) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(message)
    np.testing.assert_allclose(np.frombuffer(answer.raw_output_contents[0], "<f4"), np.array([3, 4]) / np.sqrt(12.5))


def test_a_folder_of_the_name_is_not_served_and_nobody_loads_or_unloads(digits_repository: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_repository / "digits", tmp_path / "models" / "normserve.normalize")
    arguments = ("--no-fold", "--model-control-mode", "explicit", "--load-model", "*")
    with running_server(tmp_path / "models", arguments=arguments) as server, Client(server.grpc_address) as client:
        entries = {entry.name: entry for entry in client.models()}
        assert list(entries) == MODELS
        entry = entries["normserve.normalize"]
        assert (entry.state, entry.version) == ("READY", "1")
        assert entry.reason == f"{tmp_path}/models/normserve.normalize is not served: the name is a built-in model's"
        assert client.metadata("normserve.normalize").platform == "normserve_operator"
        for refused in (client.load_model, client.unload_model):
            with pytest.raises(InvalidArgumentError, match=r"'normserve\.normalize' is built in"):
                refused("normserve.normalize")
        assert client.infer("normserve.normalize", {"input": X})["output"].shape == X.shape
        shutil.rmtree(tmp_path / "models" / "normserve.normalize")
        assert {entry.reason for entry in client.models()} == {""}
        assert server.log.count("name is a built-in model's") == 1


def test_without_them_the_names_are_free(digits_repository: Path, cache_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_repository / "digits", tmp_path / "normserve.normalize")
    arguments = ("--no-built-in-models", "--cache-dir", str(cache_dir))
    with running_server(tmp_path, arguments=arguments) as server, Client(server.grpc_address) as client:
        assert [entry.name for entry in client.models()] == ["normserve.normalize"]
        assert client.metadata("normserve.normalize").platform == "onnxruntime_onnx"
        with pytest.raises(NotFoundError):
            client.metadata("normserve.rms_norm")
