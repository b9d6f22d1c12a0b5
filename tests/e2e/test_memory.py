"""Memory that calls free is there for the next call."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from normserve import Client
from normserve.testing import running_server
from onnx import TensorProto, helper

CALLS = 40
ELEMENTS = 2**18  # 1 MiB of float32, 256 pages


def save_identity(path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", ELEMENTS]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def minor_faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")
def test_a_call_of_a_size_that_came_before_finds_its_memory_mapped(tmp_path: Path) -> None:
    save_identity(tmp_path / "identity" / "1" / "model.onnx")
    x = np.zeros((1, ELEMENTS), np.float32)
    with running_server(tmp_path, arguments=("--no-fold",)) as server, Client(server.grpc_address) as client:
        for _ in range(CALLS):
            client.infer("identity", {"x": x})
        before = minor_faults(server.process.pid)
        for _ in range(CALLS):
            client.infer("identity", {"x": x})
        # Without, it is about 400 a call.
        assert (minor_faults(server.process.pid) - before) / CALLS < 64
