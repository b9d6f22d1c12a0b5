"""Triton's load generator, unmodified, against a real server: unary, in a stream, and through shared memory."""

import csv
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from normserve.testing import RunningServer, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub

BATCH = 4
# Three windows a level, and any three are taken for stable: this is no measurement.
QUICK = ("--measurement-interval", "150", "--stability-percentage", "1000000", "--max-trials", "3")


@pytest.fixture(scope="module")
def server(digits_repository: Path, cache_dir: Path) -> Iterator[RunningServer]:
    arguments = ("--cache-dir", str(cache_dir), "--allow-shared-memory")
    with running_server(digits_repository, arguments=arguments) as server:
        yield server


def drive(program: str, server: RunningServer, report: Path, callers: str, *way: str) -> str:
    """Runs it with a range of callers, and gives what it printed; its reports are in the folder `report`."""
    command = [program, "-m", "digits", "-i", "grpc", "--service-kind", "triton", "-u", server.grpc_address, "-b", str(BATCH)]
    command += ["--concurrency-range", callers, *way, *QUICK]
    command += ["-f", str(report / "levels.csv"), "--profile-export-file", str(report / "requests.json")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout
    return done.stdout


def statistics(server: RunningServer) -> pb.InferStatistics:
    with grpc.insecure_channel(server.grpc_address) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelStatistics(pb.ModelStatisticsRequest(name="digits"))
    return answer.model_stats[0].inference_stats


def check_levels(report: Path, callers: range) -> None:
    """Each number of callers got its answers, and the server's own times stand beside the client's."""
    levels = list(csv.DictReader((report / "levels.csv").read_text().splitlines()))
    assert sorted(int(level["Concurrency"]) for level in levels) == list(callers)
    for level in levels:
        assert float(level["Inferences/Second"]) > 0
        assert float(level["Server Compute Infer"]) > 0
        assert float(level["Server Queue"]) >= 0


def sent(report: Path) -> list[dict]:
    experiments = json.loads((report / "requests.json").read_text())["experiments"]
    return [request for experiment in experiments for request in experiment["requests"]]


@pytest.mark.parametrize("way", [(), ("--streaming",)], ids=["unary", "streaming"])
def test_it_drives_the_server(
    perf_analyzer: str,
    server: RunningServer,
    tmp_path: Path,
    digits_logits: Callable[[np.ndarray], np.ndarray],
    way: tuple[str, ...],
) -> None:
    before = statistics(server)
    drive(perf_analyzer, server, tmp_path, "1:16", *way)
    check_levels(tmp_path, range(1, 17))
    requests = sent(tmp_path)
    after = statistics(server)
    assert after.success.count - before.success.count >= len(requests) > 0
    assert after.fail.count == 0
    image = np.array(requests[0]["request_inputs"]["image"], np.float32).reshape(1, 1, 8, 8)
    assert image.any()
    expected = digits_logits(np.repeat(image, BATCH, axis=0)).ravel()  # it fills a batch with one image
    for request in requests:
        (outputs,) = request["response_outputs"]
        np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-4, atol=1e-4)


def test_it_drives_the_server_through_shared_memory(perf_analyzer: str, server: RunningServer, tmp_path: Path) -> None:
    before = statistics(server)
    printed = drive(perf_analyzer, server, tmp_path, "1:16:5", "--shared-memory", "system")
    assert "nable to unregister" not in printed  # it also asks to unregister CUDA's regions, of which there are none
    check_levels(tmp_path, range(1, 17, 5))
    after = statistics(server)
    assert after.success.count - before.success.count >= len(sent(tmp_path)) > 0
    assert after.fail.count == 0
    with grpc.insecure_channel(server.grpc_address) as channel:
        status = GRPCInferenceServiceStub(channel).SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())
    assert not status.regions
