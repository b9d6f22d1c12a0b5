from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from metered_server import NETWORKS, WIDTH, MeteredServer, metered_server
from onnx import TensorProto, helper

LAYERS = 400  # of one matrix: tens of milliseconds, and a small file


def slow_network() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in ("x", f"h{LAYERS}"))
    nodes = [helper.make_node("MatMul", [f"h{layer}" if layer else "x", "w"], [f"h{layer + 1}"]) for layer in range(LAYERS)]
    matrix = helper.make_tensor("w", TensorProto.FLOAT, [WIDTH, WIDTH], np.eye(WIDTH, dtype="<f4").tobytes(), raw=True)
    graph = helper.make_graph(nodes, "slow", [x], [y], [matrix])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@pytest.fixture(scope="session")
def metered_and_quiet(
    digits_repository: Path, publish: Callable[..., Path], cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MeteredServer]:
    """A server of which every metric has something to tell; shared, so tests must leave it as it is."""
    repository = tmp_path_factory.mktemp("metered")
    copytree(digits_repository / "digits", repository / "digits")
    for name in NETWORKS:
        publish(repository / name / "1", 1.0, content=slow_network())
    with metered_server(repository, cache_dir) as server:
        yield server


@pytest.fixture(scope="module")
def metered(metered_and_quiet: MeteredServer) -> Iterator[MeteredServer]:
    """The same, under a little load while the tests of a module run: it takes half a core."""
    with metered_and_quiet.called():
        yield metered_and_quiet
