"""NormalizeStream against a real server process."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from normserve import Client, InvalidArgumentError, functional
from normserve.testing import RunningServer, running_server

MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("nothing")
    with running_server(folder, arguments=("--cache-dir", str(folder), "--max-queue-size", "1")) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.grpc_address) as client:
        yield client


def resident_bytes(server: RunningServer) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def test_ten_thousand_tensors_in_constant_memory(server: RunningServer, client: Client) -> None:
    """Of 256 KiB each, so 2.5 GiB each way, of which the server may keep a few."""
    xs = [np.random.default_rng(seed).normal(size=(64, 1024)).astype(np.float32) for seed in range(4)]
    wanted = [client.layer_norm(x, (1024,)) for x in xs]
    for answer in client.normalize_stream(functional.layer_norm(xs[n % 4], (1024,)) for n in range(300)):
        assert answer.error is None
    before = resident_bytes(server)
    count = 0
    for answer in client.normalize_stream(functional.layer_norm(xs[n % 4], (1024,)) for n in range(10_000)):
        if count % 97 == 0:
            assert np.array_equal(answer.output, wanted[count % 4])
        count += 1
    assert count == 10_000
    assert resident_bytes(server) - before < 64 * MIB


def test_answers_of_small_and_big_tensors_come_in_order(client: Client) -> None:
    sizes = [3, 200_000, 5, 300_000, 1, 7, 100_000, 2] * 10
    answers = client.normalize_stream(functional.normalize(np.full((size, 1), size, np.float64), 1.0, 0) for size in sizes)
    for size, answer in zip(sizes, answers, strict=True):
        assert answer.output.shape == (size, 1)
        np.testing.assert_allclose(answer.output, 1 / size)


def test_one_that_is_refused_is_answered_with_its_error_and_the_stream_goes_on(client: Client) -> None:
    x = np.ones((4, 6), np.float32)
    groups = [3, 4, 0, 2]
    answers = list(client.normalize_stream(functional.group_norm(x, number) for number in groups))
    assert [answer.error is None for answer in answers] == [True, False, False, True]
    with pytest.raises(InvalidArgumentError, match="divisible by num_groups"):
        _ = answers[1].output
    with pytest.raises(InvalidArgumentError) as single:
        client.group_norm(x, 4)
    assert str(answers[1].error) == str(single.value)


def test_a_caller_who_does_not_read_is_not_read_from(server: RunningServer, client: Client) -> None:
    taken = []
    stalled = threading.Event()
    x = np.ones((1, MIB // 4), np.float32)

    def requests() -> Iterator[functional.Normalization]:
        for number in range(2000):
            taken.append(number)
            yield functional.normalize(x)

    before = resident_bytes(server)
    answers = client.normalize_stream(requests())
    next(answers)
    stalled.wait(1.5)
    assert len(taken) < 200
    assert resident_bytes(server) - before < 200 * MIB
    answers.close()
