"""What many tests need: the digits network in a repository, and real servers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from normserve.testing import RunningServer, running_server
from onnx import TensorProto, helper

WIDTH = 256

# Where tests run side by side each process is given one, which rich keeps from its import on; here tests set their own.
os.environ.pop("COLUMNS", None)

os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "200"  # milliseconds that spans are collected for, instead of 5 s

# A shell has what it runs in the background ignore Ctrl-C, and so would each program that a test starts and stops by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers that no `--state` is given keep their normalizers here, and not in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def digits_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that holds the digits network, unfolded, as `make run` builds it."""
    repository = tmp_path_factory.mktemp("repository")
    command = (sys.executable, "-m", "normserve_models.zoo.build", "--repository", str(repository), "digits")
    subprocess.run(command, check=True)
    return repository


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests' servers keep what they folded, so that it is folded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def digits_server(digits_repository: Path, cache_dir: Path) -> Iterator[RunningServer]:
    """A server process that serves the digits network, folded; shared, so tests must leave it as it is."""
    arguments = ("--cache-dir", str(cache_dir), "--state", str(cache_dir / "normalizers.db"))
    with running_server(digits_repository, arguments=arguments) as server:
        yield server


@pytest.fixture(scope="session")
def memory_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of small models that take large tensors.

    `double` gives x + x and has labels for its first two classes, `gather` the values 0 to 3 that x has the indices of, and
    `nonzero`, which has no batch axis, the indices of what is not zero.
    """
    repository = tmp_path_factory.mktemp("memory")
    wide = ["batch", "width"]
    table = helper.make_tensor("table", TensorProto.FLOAT, [4], [0.0, 1.0, 2.0, 3.0])
    _save(
        repository / "double", helper.make_node("Add", ["x", "x"], ["y"]), (TensorProto.FLOAT, wide), (TensorProto.FLOAT, wide)
    )
    (repository / "double" / "config.pbtxt").write_text(
        'max_batch_size: 64 output { name: "y" data_type: TYPE_FP32 dims: [-1] label_filename: "labels.txt" }'
    )
    (repository / "double" / "labels.txt").write_text("cat\ndog\n")
    gather = helper.make_node("Gather", ["table", "x"], ["y"])
    _save(repository / "gather", gather, (TensorProto.INT64, wide), (TensorProto.FLOAT, wide), table)
    nonzero = helper.make_node("NonZero", ["x"], ["y"])
    _save(repository / "nonzero", nonzero, (TensorProto.FLOAT, ["all"]), (TensorProto.INT64, [1, "found"]))
    return repository


def _save(folder: Path, node: onnx.NodeProto, x: tuple, y: tuple, *constants: onnx.TensorProto) -> None:
    tensors = [helper.make_tensor_value_info(name, *described) for name, described in (("x", x), ("y", y))]
    graph = helper.make_graph([node], "test", tensors[:1], tensors[1:], list(constants))
    (folder / "1").mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "1" / "model.onnx")


@pytest.fixture(scope="session")
def memory_server(memory_repository: Path) -> Iterator[RunningServer]:
    """A server process that allows shared memory; shared, so tests must leave no regions behind."""
    with running_server(memory_repository, arguments=("--no-fold", "--allow-shared-memory")) as server:
        yield server


@pytest.fixture(scope="session")
def adder() -> Callable[..., bytes]:
    """Makes ONNX files: y = x + number for x of shape [batch, WIDTH], so that an answer tells which version gave it.

    `layers` matrices in between take time, and WIDTH * WIDTH * 4 bytes of memory each.
    """

    def make(number: float, layers: int = 1) -> bytes:
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in "xy")
        names = ["x", *(f"h{layer}" for layer in range(layers))]
        nodes = [helper.make_node("MatMul", [a, f"w{b}"], [b]) for a, b in pairwise(names)]
        nodes.append(helper.make_node("Add", [names[-1], "number"], ["y"]))
        eye = np.eye(WIDTH, dtype="<f4").tobytes()
        weights = [helper.make_tensor(f"w{name}", TensorProto.FLOAT, [WIDTH, WIDTH], eye, raw=True) for name in names[1:]]
        weights.append(helper.make_tensor("number", TensorProto.FLOAT, [1], [number]))
        graph = helper.make_graph(nodes, "adder", [x], [y], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()

    return make


@pytest.fixture(scope="session")
def publish(adder: Callable[..., bytes]) -> Callable[..., Path]:
    """Puts a version into a repository as one should: written beside its place under a hidden name, then renamed."""

    def put(folder: Path, number: float, layers: int = 1, *, content: bytes | None = None) -> Path:
        hidden = folder.with_name(f".{folder.name}")
        hidden.mkdir(parents=True)
        (hidden / "model.onnx").write_bytes(adder(number, layers) if content is None else content)
        return hidden.rename(folder)

    return put
