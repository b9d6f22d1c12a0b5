"""Many callers and a server that is killed at random: what was answered is there, once, and adds up."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import numpy as np
import postgresql
import pytest
import torch
from normalizer_callers import Callers, batch, calling
from normserve.testing import RunningServer, free_port, running_server
from normserve_proto import normalizers_pb2 as pb
from normserve_proto import tensors
from normserve_proto.normalizers_pb2_grpc import NormalizerServiceStub

CALLERS = 64
UPDATES = int(os.environ.get("NORMSERVE_TEST_UPDATES", "60"))  # of each caller; 1000 for the whole proof
KILLS = 3
FEATURES = 16
LAYERS = {
    "running": {"running_norm": pb.RunningNormLayer(shape=[FEATURES])},
    "cumulative": {"batch_norm": pb.BatchNormLayer(num_features=FEATURES, cumulative=True)},
    "momentum": {"batch_norm": pb.BatchNormLayer(num_features=FEATURES)},
}


def create_all(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        for id_, layer in LAYERS.items():
            request = pb.CreateNormalizerRequest(normalizer_id=id_, normalizer=pb.Normalizer(**layer))
            NormalizerServiceStub(channel).CreateNormalizer(request)


def states(address: str) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    with grpc.insecure_channel(address) as channel:
        for id_ in LAYERS:
            answer = NormalizerServiceStub(channel).GetStateDict(pb.GetStateDictRequest(name=f"normalizers/{id_}"))
            found[id_] = {
                one.name: tensors.decode(one.name, one.tensor.datatype, one.tensor.shape, one.tensor.data)
                for one in answer.tensors
            }
    return found


def check(callers: Callers, found: dict[str, dict[str, np.ndarray]]) -> None:
    """The statistics are those of the answered updates: by float64, or bit for bit those of torch in the answered order."""
    for id_ in LAYERS:
        told = callers.sequences(id_)
        assert [one.sequence for one in told] == list(range(1, len(told) + 1))
        batches = [batch(one.seed, FEATURES) for one in told]
        {"running": check_running, "cumulative": check_cumulative, "momentum": check_momentum}[id_](batches, found[id_])


def check_running(batches: list[np.ndarray], found: dict[str, np.ndarray]) -> None:
    samples = np.concatenate(batches).astype(np.float64)
    assert found["count"] == len(samples)
    np.testing.assert_allclose(found["mean"], samples.mean(0), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found["var"], samples.var(0), rtol=1e-11)


def check_cumulative(batches: list[np.ndarray], found: dict[str, np.ndarray]) -> None:
    wide = [one.astype(np.float64) for one in batches]
    assert found["num_batches_tracked"] == len(batches)
    np.testing.assert_allclose(found["running_mean"], np.mean([one.mean(0) for one in wide], 0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found["running_var"], np.mean([one.var(0, ddof=1) for one in wide], 0), rtol=1e-6)


def check_momentum(batches: list[np.ndarray], found: dict[str, np.ndarray]) -> None:
    """The kernel sums in another order where it has other threads, and a worker has its share of them."""
    assert any(
        all(np.array_equal(found[name], expected) for name, expected in trained(batches, threads).items())
        for threads in {1, torch.get_num_threads()}
    )


def trained(batches: list[np.ndarray], threads: int) -> dict[str, np.ndarray]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        module = torch.nn.BatchNorm1d(FEATURES)
        for one in batches:
            module(torch.from_numpy(one))
        return {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    finally:
        torch.set_num_threads(before)


def wait_for(callers: Callers, count: int) -> None:
    while len(callers.told) < count and callers.thread.is_alive():
        time.sleep(0.002)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., AbstractContextManager[RunningServer]]:
    """Starts servers, one after the other, that have one address and one state."""
    port = free_port("127.0.0.1")
    (tmp_path / "repository").mkdir()

    def start(*arguments: str) -> AbstractContextManager[RunningServer]:
        arguments = ("--state", str(tmp_path / "state.db"), *arguments)
        return running_server(tmp_path / "repository", grpc_port=port, arguments=arguments)

    return start


def moments() -> list[int]:
    """After how many answers a process is killed."""
    total = CALLERS * UPDATES
    return sorted(random.sample(range(total // 10, total * 9 // 10), KILLS))


def test_what_was_answered_survives_kill_9(start: Callable[..., AbstractContextManager[RunningServer]]) -> None:
    with start() as server:
        create_all(server.grpc_address)
    with calling([server.grpc_address], list(LAYERS), FEATURES, CALLERS, UPDATES) as callers:
        for moment in moments():
            with start() as server:
                wait_for(callers, moment)
                server.process.kill()
                server.process.wait()
        with start() as server:
            callers.thread.join()
            found = states(server.grpc_address)
    assert not callers.errors
    assert callers.tries > CALLERS * UPDATES
    check(callers, found)


def test_two_workers_share_the_state_and_one_may_be_killed(
    start: Callable[..., AbstractContextManager[RunningServer]],
) -> None:
    with start("--workers", "2") as server:
        create_all(server.grpc_address)
        with calling([server.grpc_address], list(LAYERS), FEATURES, CALLERS, UPDATES) as callers:
            wait_for(callers, moments()[0])
            workers = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
            os.kill(int(random.choice(workers)), signal.SIGKILL)
            callers.thread.join()
        found = states(server.grpc_address)
    assert not callers.errors
    check(callers, found)


@pytest.mark.skipif(postgresql.programs() is None, reason=postgresql.WHY_NOT)
def test_two_servers_share_postgresql_and_one_may_be_killed(tmp_path: Path) -> None:
    with postgresql.postgresql() as database:
        arguments = ("--state", database.database())
        with running_server(tmp_path, arguments=arguments) as one, running_server(tmp_path, arguments=arguments) as other:
            create_all(one.grpc_address)
            addresses = [one.grpc_address, other.grpc_address]
            with calling(addresses, list(LAYERS), FEATURES, CALLERS, UPDATES) as callers:
                wait_for(callers, moments()[0])
                one.process.kill()
                callers.thread.join()
            found = states(other.grpc_address)
    assert not callers.errors
    check(callers, found)
