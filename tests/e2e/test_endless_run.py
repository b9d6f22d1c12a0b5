"""A run that never ends holds up neither other calls nor the end of the process."""

import contextlib
import signal
import threading
import time
from pathlib import Path

import numpy as np
import onnx
from normserve import Client, NormserveError
from normserve.testing import running_server
from onnx import TensorProto, helper


def save_counter(path: Path) -> None:
    """A model that takes as many turns as it is told."""
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [1])
    turns = helper.make_tensor_value_info("turns", TensorProto.INT64, [1])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Add", ["before", "one"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    nodes = [
        helper.make_node("Squeeze", ["count"], ["limit"]),
        helper.make_node("Loop", ["limit", "", "zero"], ["turns"], body=body),
    ]
    graph = helper.make_graph(nodes, "counter", [count], [turns], [helper.make_tensor("zero", TensorProto.INT64, [1], [0])])
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def count(address: str, turns: int) -> None:
    with Client(address) as client:
        client.infer("counter", {"count": np.array([turns])})


def endless(address: str) -> None:
    with contextlib.suppress(NormserveError):
        count(address, 2**62)


def test_others_are_answered_and_the_process_ends(tmp_path: Path) -> None:
    save_counter(tmp_path / "counter" / "1" / "model.onnx")
    arguments = ("--no-fold", "--drain-timeout-seconds", "1")
    with running_server(tmp_path, arguments=arguments) as server, Client(server.grpc_address) as client:
        count(server.grpc_address, 3)
        for _ in range(2):
            count(server.grpc_address, 2_000_000)  # long enough to be seen: from now on it runs on its thread
        caller = threading.Thread(target=endless, args=(server.grpc_address,))
        caller.start()
        until = time.monotonic() + 60
        while "in_flight 1.0" not in server_metrics(server.http_address) and time.monotonic() < until:
            time.sleep(0.05)
        assert client.is_live(timeout=30)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 1
        caller.join()
        assert "a run that does not end is left behind" in server.log


def server_metrics(address: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return answer.read().decode()
