"""Versions that come and go under load, in a real server: no call is lost, and the memory comes back."""

import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from normserve import Client, InternalError, NotFoundError
from normserve.testing import RunningServer, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub

WIDTH = 256
CLIENTS = 6
NO_RETRIES = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
CANARY = ("--canary-interval-seconds", "0.05")  # much too often, to be in the way
EXPLICIT = ("--no-fold", "--model-control-mode", "explicit", *CANARY)
STATUS = health_pb2.HealthCheckResponse.ServingStatus


@dataclass
class Tally:
    """What one client was answered: numbers, or the errors' texts."""

    numbers: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def hammer(address: str, tally: Tally, stop: threading.Event) -> None:
    message = pb.ModelInferRequest(model_name="m", raw_input_contents=[np.zeros((4, WIDTH), "<f4").tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[4, WIDTH])
    with grpc.insecure_channel(address, NO_RETRIES) as channel:
        stub = GRPCInferenceServiceStub(channel)
        while not stop.is_set():
            try:
                answer = stub.ModelInfer(message, timeout=20)
                tally.numbers.append(float(np.frombuffer(answer.raw_output_contents[0], "<f4")[0]))
            except grpc.RpcError as error:
                tally.errors.append(f"{error.code()} {error.details()}")


@contextmanager
def load(server: RunningServer) -> Iterator[list[Tally]]:
    tallies, stop = [Tally() for _ in range(CLIENTS)], threading.Event()
    threads = [threading.Thread(target=hammer, args=(server.grpc_address, tally, stop)) for tally in tallies]
    for thread in threads:
        thread.start()
    try:
        yield tallies
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def index(client: Client) -> dict[str, tuple[str, str]]:
    """What is there besides the built-in models."""
    entries = [entry for entry in client.models() if not entry.name.startswith("normserve.")]
    return {f"{entry.name}/{entry.version}": (entry.state, entry.reason) for entry in entries}


def answer(client: Client, model: str = "m") -> float:
    return float(client.infer(model, {"x": np.zeros((1, WIDTH), np.float32)})["y"][0, 0])


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def resident_mib(server: RunningServer) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def test_swaps_under_load_lose_nothing(tmp_path: Path, publish: Callable[..., Path], adder: Callable[..., bytes]) -> None:
    publish(tmp_path / "m/1", 1, layers=4)
    with running_server(tmp_path, arguments=(*EXPLICIT, "--load-model", "m")) as server, Client(server.grpc_address) as client:
        with load(server) as tallies:
            for number in range(2, 12):
                before = len(tallies[0].numbers)
                until(lambda before=before: len(tallies[0].numbers) > before + 5)
                if number % 2:  # the same version with another content
                    (tmp_path / f"m/{number - 1}/model.onnx").write_bytes(adder(number, 5))
                else:
                    publish(tmp_path / f"m/{number}", number, layers=4)
                client.load_model("m")
                assert answer(client) == number
                with pytest.raises(InternalError, match="does not load"):
                    client.load_model("m", config="{}", files={"99/model.onnx": b"nothing"})
        for tally in tallies:
            assert not tally.errors
            assert tally.numbers == sorted(tally.numbers)  # nobody is sent back to an old version
            assert (tally.numbers[0], len(set(tally.numbers)) > 5) == (1, True)
        until(lambda: index(client).keys() == {"m/10", "m/99"})
        assert server.log.count("model unloaded") == 10


def test_a_version_that_fails_is_listed_and_the_old_one_serves(tmp_path: Path, publish: Callable[..., Path]) -> None:
    publish(tmp_path / "m/1", 1)
    publish(tmp_path / "m/2", 2, content=b"corrupt")
    (tmp_path / "m/config.pbtxt").write_text("version_policy { latest { num_versions: 2 } }")
    with running_server(tmp_path, arguments=EXPLICIT[:1]) as server, Client(server.grpc_address) as client:
        state, reason = index(client)["m/2"]
        assert (state, "does not load it" in reason) == ("UNAVAILABLE", True)
        assert (answer(client), client.is_ready(), client.is_ready("m")) == (1, True, True)
        assert client.metadata("m").versions == ("1", "2")
        assert not client.is_ready("m", "2")
        with urllib.request.urlopen(f"http://{server.http_address}/health/ready") as response:
            assert response.status == 200


def test_polling_follows_the_folder_and_health_follows_that(tmp_path: Path, publish: Callable[..., Path]) -> None:
    publish(tmp_path / "m/1", 1)
    flags = ("--no-fold", "--model-control-mode", "poll", "--repository-poll-seconds", "0.05", *CANARY)
    with running_server(tmp_path, arguments=flags) as server, Client(server.grpc_address) as client:
        with load(server) as tallies:
            until(lambda: all(tally.numbers for tally in tallies))
            publish(tmp_path / "m/2", 2, content=b"half of i")
            until(lambda: index(client).get("m/2", ("",))[0] == "UNAVAILABLE")
            assert answer(client) == 1
            shutil.rmtree(tmp_path / "m/2")
            publish(tmp_path / "m/2", 2)
            until(lambda: answer(client) == 2)
            publish(tmp_path / "n/1", 7)
            until(lambda: "n/1" in index(client) and client.is_ready("n"))
            shutil.rmtree(tmp_path / "m/2")
            until(lambda: answer(client) == 1)
        assert not [error for tally in tallies for error in tally.errors]
        with grpc.insecure_channel(server.grpc_address, NO_RETRIES) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="m"), timeout=20)
            assert next(watch).status == STATUS.SERVING
            shutil.rmtree(tmp_path / "m")
            assert STATUS.SERVICE_UNKNOWN in (answer.status for answer in watch)
        with pytest.raises(NotFoundError):
            answer(client)
        assert (answer(client, "n"), client.is_ready()) == (7, True)


def test_models_of_several_repositories(tmp_path: Path, publish: Callable[..., Path]) -> None:
    for place, number in (("a/m/1", 1), ("a/both/1", 1), ("b/n/1", 2), ("b/both/1", 2)):
        publish(tmp_path / place, number)
    arguments = ("--no-fold", "--repository", str(tmp_path / "b"))
    with (
        running_server(tmp_path / "a", arguments=arguments, wait_until="live") as server,
        Client(server.grpc_address) as client,
        grpc.insecure_channel(server.grpc_address, NO_RETRIES) as channel,
    ):
        until(lambda: "LOADING" not in {state for state, _ in index(client).values()} and len(index(client)) == 3)
        assert (answer(client, "m"), answer(client, "n")) == (1, 2)
        assert "stands in two repositories" in index(client)["both/1"][1]
        assert not client.is_ready()
        ask = GRPCInferenceServiceStub(channel).RepositoryIndex

        def names(repository: str) -> set[str]:
            return {model.name for model in ask(pb.RepositoryIndexRequest(repository_name=repository)).models}

        assert names("b") == names(str(tmp_path / "b")) == {"n"}
        assert names("a") == {"m", "both"}
        with pytest.raises(grpc.RpcError) as refusal:
            names("c")
        assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


def test_memory_comes_back(tmp_path: Path, publish: Callable[..., Path]) -> None:
    publish(tmp_path / "m/1", 1, layers=8)  # 2 MiB
    publish(tmp_path / "big/1", 1, layers=256)  # 64 MiB
    with running_server(tmp_path, arguments=(*EXPLICIT, "--load-model", "big")) as server:
        with Client(server.grpc_address) as client:
            answer(client, "big")
            loaded = resident_mib(server)
            client.unload_model("big")
            assert resident_mib(server) < loaded - 48
            after = []
            for _ in range(50):
                client.load_model("m")
                answer(client)
                client.unload_model("m")
                after.append(resident_mib(server))
            assert index(client) == {"big/1": ("UNAVAILABLE", "unloaded"), "m/1": ("UNAVAILABLE", "unloaded")}
        # Each of the 45 would add 2 MiB and more; freed memory at the top of a thread's heap stays for a while.
        assert max(after[40:]) - min(after[5:]) < 12
