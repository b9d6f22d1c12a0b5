"""More than the server can take: what is refused is refused at once, with the right code; what is accepted is answered."""

import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from normserve.testing import RunningServer, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from onnx import TensorProto, helper

SIZE = 1024
LIMIT = 40 * 2**20
OPTIONS = [("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def save(repository: Path, name: str, nodes: list, shape: list, constants: list = ()) -> None:
    x, y = (helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape) for tensor in "xy")
    graph = helper.make_graph(nodes, name, [x], [y], list(constants))
    (repository / name / "1").mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        repository / name / "1" / "model.onnx",
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[RunningServer]:
    """Serves `slow`, which takes a good part of a second and has no batch axis, and `identity`."""
    repository = tmp_path_factory.mktemp("slow")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [SIZE, SIZE], np.eye(SIZE, dtype=np.float32).tobytes(), raw=True)
    names = ["x", *(f"h{i}" for i in range(15)), "y"]
    chain = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    save(repository, "slow", chain, [SIZE, SIZE], [weight])
    save(repository, "identity", [helper.make_node("Identity", ["x"], ["y"])], ["batch", "width"])
    flags = ("--cache-dir", str(cache_dir), "--max-queue-size", "2", "--max-admitted-bytes", str(LIMIT))
    with running_server(repository, arguments=(*flags, "--intra-op-threads", "1")) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc_address, OPTIONS) as channel:
        yield GRPCInferenceServiceStub(channel)


def request(model: str, shape: tuple[int, ...]) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP32", shape=shape)
    message.raw_input_contents.append(np.ones(shape, "<f4").tobytes())
    return message


SLOW = request("slow", (SIZE, SIZE))


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(stub: GRPCInferenceServiceStub) -> None:
    calls = [stub.ModelInfer.future(SLOW) for _ in range(8)]
    codes = Counter(call.code() for call in calls)
    # One runs and two wait, so three are accepted, and more only where a run ended before the last request had come.
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert 3 <= codes[grpc.StatusCode.OK] < len(calls)
    refused = next(call for call in calls if call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert "'slow': 2 requests wait already" in refused.details()


def test_a_queue_timeout_is_kept(stub: GRPCInferenceServiceStub) -> None:
    first = stub.ModelInfer.future(SLOW)
    time.sleep(0.05)
    impatient = request("slow", (SIZE, SIZE))
    impatient.parameters["timeout"].int64_param = 1000
    second = stub.ModelInfer.future(impatient)
    assert second.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "waited" in second.details()
    assert first.code() == grpc.StatusCode.OK


def runs_of_slow(server: RunningServer) -> int:
    with urllib.request.urlopen(f"http://{server.http_address}/metrics") as response:
        lines = response.read().decode().splitlines()
    name = 'normserve_batch_size_count{model="slow",version="1"} '
    return next(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))


def test_a_deadline_passes_in_the_queue_and_while_running(server: RunningServer, stub: GRPCInferenceServiceStub) -> None:
    before = runs_of_slow(server)
    calls = [stub.ModelInfer.future(SLOW, timeout=0.1) for _ in range(2)]
    assert [call.code() for call in calls] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
    assert stub.ModelInfer.future(SLOW).code() == grpc.StatusCode.OK
    assert runs_of_slow(server) == before + 2  # the one that was running and the last; not the one in the queue


def test_a_caller_that_leaves_does_not_hold_up_the_next(server: RunningServer, stub: GRPCInferenceServiceStub) -> None:
    before = runs_of_slow(server)
    running = stub.ModelInfer.future(SLOW)
    time.sleep(0.05)
    gone = stub.ModelInfer.future(SLOW)
    time.sleep(0.05)
    gone.cancel()
    stays = stub.ModelInfer.future(SLOW)
    assert (running.code(), gone.code(), stays.code()) == (
        grpc.StatusCode.OK,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.OK,
    )
    assert runs_of_slow(server) == before + 2


def test_other_models_are_served_meanwhile(stub: GRPCInferenceServiceStub) -> None:
    slow = stub.ModelInfer.future(SLOW)
    time.sleep(0.02)
    stub.ModelInfer(request("identity", (1, 4)))
    assert not slow.done()
    assert slow.code() == grpc.StatusCode.OK


def test_messages_are_limited_by_admission_only(stub: GRPCInferenceServiceStub) -> None:
    big = request("identity", (8, 2**20))  # 32 MiB
    answer = stub.ModelInfer(big)
    assert answer.raw_output_contents[0] == big.raw_input_contents[0]
    with pytest.raises(grpc.RpcError) as refusal:
        stub.ModelInfer(request("identity", (16, 2**20)))
    assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(LIMIT) in refusal.value.details()
    assert dict(refusal.value.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"  # it will never fit


def test_what_does_not_fit_beside_others_may_come_back(stub: GRPCInferenceServiceStub) -> None:
    codes: Counter[grpc.StatusCode] = Counter()
    big = request("identity", (8, 2**20))

    def call() -> None:
        codes[stub.ModelInfer.future(big).code()] += 1

    for _ in range(20):
        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if codes[grpc.StatusCode.RESOURCE_EXHAUSTED]:
            break
    assert codes[grpc.StatusCode.OK] >= 1
    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] >= 1
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
