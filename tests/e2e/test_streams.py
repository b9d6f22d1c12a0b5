"""ModelStreamInfer against a real server process."""

import itertools
import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from normserve.testing import RunningServer, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from onnx import TensorProto, helper

OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
MAX_STREAM_BYTES = 32 * 2**20


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`identity`, whose answers are as big as its requests, and `slow`, which takes a tenth of a second a request."""
    repository = tmp_path_factory.mktemp("streams")
    _save(repository, "identity", [helper.make_node("Identity", ["x"], ["y"])], ["batch", "width"], [])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [512, 512], np.eye(512, dtype=np.float32).tobytes(), raw=True)
    names = ["x", *(f"h{i}" for i in range(15)), "y"]
    chain = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    _save(repository, "slow", chain, [2048, 512], [weight])
    return repository


def _save(repository: Path, name: str, nodes: list, shape: list, constants: list) -> None:
    x, y = (helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape) for tensor in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, name, [x], [y], constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    (repository / name / "1").mkdir(parents=True)
    onnx.save(model, repository / name / "1" / "model.onnx")


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    with running_server(repository, arguments=("--no-fold",)) as server:
        yield server


@pytest.fixture
def stub(server: RunningServer) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc_address, OPTIONS) as channel:
        yield GRPCInferenceServiceStub(channel)


def request(
    request_id: object, shape: tuple[int, ...] = (1, 4), model: str = "identity", fill: float = 1
) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model, id=str(request_id))
    message.inputs.add(name="x", datatype="FP32", shape=shape)
    message.raw_input_contents.append(np.full(shape, fill, "<f4").tobytes())
    return message


SLOW = request("slow", (2048, 512), "slow")


def metrics(server: RunningServer) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{server.http_address}/metrics") as response:
        lines = [line for line in response.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def counted(server: RunningServer, code: str) -> float:
    labels = f'code="{code}",method="ModelStreamInfer",model="identity",version="1"'
    return metrics(server).get(f"normserve_requests_total{{{labels}}}", 0)


def comes_to_rest(server: RunningServer) -> bool:
    for _ in range(100):
        found = metrics(server)
        if (found["normserve_admitted_bytes"], found["normserve_requests_in_flight"]) == (0, 0):
            return True
        time.sleep(0.05)
    return False


def test_a_thousand_answers_come_in_order_and_run_together(server: RunningServer, stub: GRPCInferenceServiceStub) -> None:
    before = counted(server, "OK")
    requests = (request(number, (1 + number % 3, 4), fill=number) for number in range(1000))
    answers = [answer.infer_response for answer in stub.ModelStreamInfer(requests)]
    assert [answer.id for answer in answers] == [str(number) for number in range(1000)]
    for number, answer in enumerate(answers):
        assert list(answer.outputs[0].shape) == [1 + number % 3, 4]
        assert set(np.frombuffer(answer.raw_output_contents[0], "<f4")) == {number}
        assert answer.parameters["triton_final_response"].bool_param
    assert comes_to_rest(server)
    assert counted(server, "OK") == before + 1000


def test_messages_with_tensors_of_all_sizes(stub: GRPCInferenceServiceStub) -> None:
    requests = [request(number, (number + 1, 4 ** (2 * number + 1))) for number in range(5)]
    for sent, answer in zip(requests, stub.ModelStreamInfer(iter(requests)), strict=True):
        assert answer.infer_response.raw_output_contents[0] == sent.raw_input_contents[0]


def test_errors_are_their_requests_and_the_stream_goes_on(stub: GRPCInferenceServiceStub) -> None:
    unknown, wrong = request("b", model="nothing"), request("c")
    wrong.inputs[0].datatype = "FP64"
    answers = list(stub.ModelStreamInfer(iter([request("a"), unknown, wrong, request("d")])))
    assert [answer.infer_response.id for answer in answers] == ["a", "b", "c", "d"]
    errors = [answer.error_message for answer in answers]
    assert (errors[0], errors[3]) == ("", "")
    assert errors[1].startswith("no model 'nothing'")
    assert errors[2] == "input 'x' is FP32, got FP64"


def test_bytes_that_are_no_message_are_an_error_of_their_own(server: RunningServer) -> None:
    with grpc.insecure_channel(server.grpc_address, OPTIONS) as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        answers = list(stream(iter([b"\xff\xff", request("a").SerializeToString()])))
    first, second = (pb.ModelStreamInferResponse.FromString(answer) for answer in answers)
    assert "pars" in first.error_message
    assert (second.error_message, second.infer_response.id) == ("", "a")


def test_an_error_ends_the_stream_where_the_caller_wants_that(stub: GRPCInferenceServiceStub) -> None:
    requests = iter([request("a"), request("b", model="nothing"), request("c")])
    stream = stub.ModelStreamInfer(requests, metadata=(("triton_grpc_error", "true"),))
    assert next(stream).infer_response.id == "a"
    with pytest.raises(grpc.RpcError) as error:
        next(stream)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_caller_that_stops_reading_costs_a_bounded_amount_and_holds_up_nobody(
    server: RunningServer, stub: GRPCInferenceServiceStub
) -> None:
    big, sent, over = request("big", (1, 2**18)), itertools.count(), threading.Event()
    stream = stub.ModelStreamInfer(big for _ in iter(over.is_set, True) if next(sent) >= 0)
    found, taken = -1, 0.0
    while taken > found:  # until it stands still
        found = taken
        time.sleep(0.3)
        taken = counted(server, "OK")
    assert 0 < metrics(server)["normserve_admitted_bytes"] <= 2 * (MAX_STREAM_BYTES + big.ByteSize())
    with grpc.insecure_channel(server.grpc_address, OPTIONS) as other:
        for _ in range(20):
            GRPCInferenceServiceStub(other).ModelInfer(request("other"), timeout=5)
    assert counted(server, "OK") == taken
    assert [next(stream).infer_response.id for _ in range(100)] == ["big"] * 100  # and now it reads
    over.set()
    stream.cancel()
    assert comes_to_rest(server)


@pytest.mark.parametrize("timeout", [None, 0.25])
def test_whoever_leaves_takes_its_messages_out_of_the_queue(
    server: RunningServer, stub: GRPCInferenceServiceStub, timeout: float | None
) -> None:
    runs = 'normserve_batch_size_count{model="slow",version="1"}'
    before = metrics(server).get(runs, 0)
    stream = stub.ModelStreamInfer(itertools.repeat(SLOW, 30), timeout=timeout)
    if timeout is None:
        next(stream)
        stream.cancel()
    with pytest.raises(grpc.RpcError) as error:
        list(stream)
    assert error.value.code() == (grpc.StatusCode.CANCELLED if timeout is None else grpc.StatusCode.DEADLINE_EXCEEDED)
    assert comes_to_rest(server)
    stub.ModelInfer(SLOW)  # whatever was running has ended
    assert metrics(server)[runs] < before + 30


def test_a_drain_answers_what_was_accepted_and_ends_idle_and_busy_streams(repository: Path) -> None:
    hold = threading.Event()

    def idle_requests() -> Iterator[pb.ModelInferRequest]:
        yield request("idle")
        hold.wait(30)

    with (
        running_server(repository, arguments=("--no-fold",)) as server,
        grpc.insecure_channel(server.grpc_address, OPTIONS) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        idle = stub.ModelStreamInfer(idle_requests())
        assert next(idle).infer_response.id == "idle"
        busy = stub.ModelStreamInfer(itertools.chain([SLOW] * 5, idle_requests()))
        next(busy)
        signalled = time.monotonic()
        server.process.terminate()
        answers = []
        with pytest.raises(grpc.RpcError) as busy_end:
            answers.extend(busy)  # type: ignore[call-overload]
        with pytest.raises(grpc.RpcError) as idle_end:
            next(idle)
        for end in (busy_end, idle_end):
            assert (end.value.code(), end.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is draining")
        assert server.process.wait(30) == 0
        assert time.monotonic() - signalled < 10
        hold.set()
        assert not re.search('Traceback|"exception"', server.log)
    draining = next(line for line in map(json.loads, server.log.splitlines()) if line["event"] == "draining")
    assert len(answers) + 1 >= draining["in_flight"] > 0  # the first may count until its last byte is known to be out
