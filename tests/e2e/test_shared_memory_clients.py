"""Our own clients and a real server, through shared memory: also where the server refuses, starts again, or the client dies."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
from normserve import AsyncClient, Client, NormserveError, SharedMemoryWarning, placement, requests
from normserve.testing import RunningServer, free_port, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from normserve_proto.shared_memory import FOLDER, LEASED
from onnx import TensorProto, helper

BIG = np.arange(50_000, dtype=np.float32).reshape(2, -1)


@pytest.fixture(autouse=True)
def no_objects_left(memory_server: RunningServer) -> Iterator[None]:
    def objects() -> set[str]:
        return {path.name for path in Path(FOLDER).iterdir() if path.name.startswith((LEASED, "normserve-test"))}

    before = objects()
    yield
    gc.collect()
    assert objects() == before


@pytest.fixture(scope="module")
def stub(memory_server: RunningServer) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(memory_server.grpc_address) as channel:
        yield GRPCInferenceServiceStub(channel)


def registered(stub: GRPCInferenceServiceStub) -> set[str]:
    return set(stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()).regions)


class Sizes:
    """How many bytes a client's inferences took on the connection."""

    def __init__(self, client: Client) -> None:
        self._send = client._methods[requests.MODEL_INFER]
        client._methods[requests.MODEL_INFER] = self._sent
        self.last = (0, 0)

    def _sent(self, request: bytes, **options: object) -> bytes:
        response = self._send(request, **options)
        self.last = len(request), len(response)
        return response


def test_big_tensors_do_not_go_through_the_connection(memory_server: RunningServer, stub: GRPCInferenceServiceStub) -> None:
    with Client(memory_server.grpc_address, shared_memory=True) as client:
        sizes = Sizes(client)
        answers = [client.infer("double", {"x": BIG + number})["y"] for number in range(4)]
        assert max(sizes.last) < 1000
        assert len(registered(stub)) == 3  # one for each answer that lies there
    for number, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, (BIG + number) * 2)
    assert not registered(stub)


def test_answers_whose_size_depends_on_their_input(memory_server: RunningServer) -> None:
    with Client(memory_server.grpc_address, shared_memory=True) as client:
        sizes = Sizes(client)
        for share, through_memory in ((0.5, False), (0.6, False), (0.2, True), (0.6, True), (0.001, True), (1, False)):
            x = (np.arange(100_000) < share * 100_000).astype(np.float32)
            found = client.infer("nonzero", {"x": x})["y"]
            assert found.tolist() == [np.flatnonzero(x).tolist()]
            assert (sizes.last[1] < 1000) == through_memory


def test_many_threads_and_one_client(memory_server: RunningServer, stub: GRPCInferenceServiceStub) -> None:
    wrong = []

    def work(client: Client, number: int) -> None:
        for turn in range(20):
            x = np.full((1, 20_000 + 3_000 * (turn % 3)), number * 100 + turn, np.float32)
            if not np.array_equal(client.infer("double", {"x": x}, timeout=60)["y"], x * 2):
                wrong.append((number, turn))

    with Client(memory_server.grpc_address, shared_memory=True) as client:
        threads = [threading.Thread(target=work, args=(client, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert not registered(stub)


async def test_coroutines(memory_server: RunningServer, stub: GRPCInferenceServiceStub) -> None:
    async with AsyncClient(memory_server.grpc_address, shared_memory=True) as client:
        for _ in range(2):
            inputs = [BIG + number for number in range(50)]  # more than there are slots
            answers = await asyncio.gather(*(client.infer("double", {"x": x}) for x in inputs))
            for x, answer in zip(inputs, answers, strict=True):
                np.testing.assert_array_equal(answer["y"], x * 2)
        late = [asyncio.create_task(client.infer("double", {"x": BIG})) for _ in range(10)]
        await asyncio.sleep(0)
        for task in late[::2]:
            task.cancel()
        for answer in await asyncio.gather(*late[1::2]):
            np.testing.assert_array_equal(answer["y"], BIG * 2)
    assert not registered(stub)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_server_that_does_not_allow_it_is_used_without(
    digits_server: RunningServer, kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "SMALLEST_BYTES", 1)
    client = kind(digits_server.grpc_address, shared_memory=True)

    async def infer() -> None:
        answer = client.infer("digits", {"image": np.zeros((1, 1, 8, 8), np.float32)})
        assert (await answer if kind is AsyncClient else answer)["logits"].shape == (1, 10)

    with pytest.warns(SharedMemoryWarning, match="allow_shared_memory") as caught:
        await infer()
    assert caught[0].filename == __file__
    await infer()
    left = client.close()
    if kind is AsyncClient:
        await left


def test_a_server_is_started_again(memory_repository: Path) -> None:
    port = free_port()
    with Client(f"127.0.0.1:{port}", shared_memory=True) as client:
        for _ in range(2):
            with running_server(memory_repository, grpc_port=port, arguments=("--no-fold", "--allow-shared-memory")):
                sizes = Sizes(client)
                for _ in range(3):
                    np.testing.assert_array_equal(client.infer("double", {"x": BIG})["y"], BIG * 2)
                assert max(sizes.last) < 1000


def test_a_worker_is_replaced(memory_repository: Path) -> None:
    flags = ("--no-fold", "--allow-shared-memory", "--workers", "2")
    with running_server(memory_repository, arguments=flags) as server, contextlib.ExitStack() as opened:
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection each
        clients = [opened.enter_context(Client(server.grpc_address, shared_memory=True, options=options)) for _ in range(6)]
        sizes = [Sizes(client) for client in clients]

        def infer() -> list[int]:
            for client in clients * 3:
                np.testing.assert_array_equal(client.infer("double", {"x": BIG}, timeout=60)["y"], BIG * 2)
            return [max(size.last) for size in sizes]

        assert max(infer()) < 1000
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        assert max(infer()) < 1000
        assert "does not take a change" not in server.log


def relu(outputs: Sequence[str]) -> bytes:
    """A model of x [N, 25000] with these outputs."""
    nodes = [helper.make_node("Relu", ["x"], [name]) for name in outputs]
    x, *ys = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 25_000]) for name in ("x", *outputs))
    graph = helper.make_graph(nodes, "graph", [x], ys)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def load(client: Client, *outputs: str) -> None:
    client.load_model("m", config={"max_batch_size": 8}, files={"1/model.onnx": relu(outputs)})


@contextlib.contextmanager
def after_three(address: str) -> Iterator[Client]:
    """A client that knows the one output of a version."""
    with Client(address, shared_memory=True) as client:
        load(client, "y")
        assert [list(client.infer("m", {"x": BIG})) for _ in range(3)] == [["y"]] * 3
        yield client


def test_a_version_that_is_loaded_anew_with_one_more_output(tmp_path: Path) -> None:
    flags = ("--no-fold", "--allow-shared-memory", "--model-control-mode", "explicit")
    with running_server(tmp_path, arguments=flags) as server:
        with after_three(server.grpc_address) as client:
            load(client, "y", "z")
            assert list(client.infer("m", {"x": BIG})) == ["y", "z"]
        with after_three(server.grpc_address) as client, Client(server.grpc_address) as other:
            load(other, "y", "z")
            answers = [len(client.infer("m", {"x": BIG})) for _ in range(64)]
            assert answers[0] == 1  # what docs/client.md says; it may become better
            assert answers[-1] == 2
            sizes = Sizes(client)
            assert len(client.infer("m", {"x": BIG})) == 2
            assert max(sizes.last) < 1000


async def test_what_a_coroutine_loads_anew() -> None:
    async with AsyncClient("127.0.0.1:1", shared_memory=True) as client:
        for change in (client.load_model("m", timeout=0.1), client.unload_model("m", timeout=0.1)):
            before = client._shared._known
            with pytest.raises(NormserveError):
                await change
            assert client._shared._known is not before


DYING = """
import sys, time, numpy as np
from normserve import Client
client = Client(sys.argv[1], shared_memory=True)
x = np.zeros((1, 100_000), np.float32)
client.infer("double", {"x": x}), client.infer("double", {"x": x})
print("ready", flush=True)
while True: client.infer("double", {"x": x})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_client_that_dies_leaves_nothing_behind(
    memory_server: RunningServer, stub: GRPCInferenceServiceStub, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", DYING, memory_server.grpc_address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        assert len(registered(stub)) == 1
        client.send_signal(number)
        client.wait()
    assert not registered(stub)
    assert stub.ServerReady(pb.ServerReadyRequest()).ready


KILLED_EARLY = """
import os, signal, sys, numpy as np
from normserve import Client, requests
requests.register = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Client(sys.argv[1], shared_memory=True).infer("double", {"x": np.zeros((1, 100_000), np.float32)})
"""


def test_the_next_client_removes_what_one_left_that_was_killed_before_the_server_opened_it(
    memory_server: RunningServer,
) -> None:
    address = memory_server.grpc_address
    done = subprocess.run([sys.executable, "-c", KILLED_EARLY, address], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(Path(FOLDER).glob(f"{LEASED}*"))
    with Client(address, shared_memory=True) as client:
        client.infer("double", {"x": BIG})


def test_a_client_that_nobody_closes(memory_server: RunningServer, stub: GRPCInferenceServiceStub) -> None:
    client = Client(memory_server.grpc_address, shared_memory=True)
    client.infer("double", {"x": BIG})
    assert len(registered(stub)) == 1
    del client
    gc.collect()
    assert not registered(stub)
