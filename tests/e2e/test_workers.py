"""`--workers 2`: two serving processes behind one port, under load, killed, drained, and orphaned."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from metrics_table import documented, exported
from normserve.testing import RunningServer, running_server
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from prometheus_client.parser import text_string_to_metric_families
from workers_load import CHANNEL, CLIENTS, OK_COUNT, Load, alive, children, folder_of, get, infer, ok_by_worker, until, value

SOFT_LIMIT = 512


@pytest.fixture(scope="module")
def server(digits_repository: Path, cache_dir: Path) -> Iterator[RunningServer]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    arguments = ("--workers", "2", "--cache-dir", str(cache_dir), "--log-format", "json")
    with contextlib.ExitStack() as running:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(SOFT_LIMIT, hard), hard))
        try:
            server = running.enter_context(running_server(digits_repository, arguments=arguments))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        yield server
        (worker, _) = children(server.process.pid)
        folder = folder_of(worker)
        assert folder.stat().st_mode & 0o777 == 0o700
        server.process.terminate()
        assert server.process.wait(30) == 0
    assert not folder.exists()


def test_both_workers_are_called_and_their_metrics_add_up(server: RunningServer) -> None:
    expected = value(server, OK_COUNT)
    folder = folder_of(children(server.process.pid)[0])
    for _ in range(5):  # the system may give all connections to the same one: of 256 times, it does so twice
        with Load(server.grpc_address) as load:
            until(lambda: sum(tally.answered for tally in load.tallies) > 200)
        expected += sum(tally.answered for tally in load.tallies)
        assert sum(tally.answered for tally in load.tallies) == sum(tally.sent for tally in load.tallies)
        until(lambda wanted=expected: value(server, OK_COUNT) == wanted, 5)  # the answer leaves before it is counted
        by_worker = ok_by_worker(folder)
        assert len(by_worker) == 2
        assert sum(by_worker) == expected
        if min(by_worker) > 0:
            break
    else:
        pytest.fail("one worker was never called")
    assert value(server, "normserve_workers") == 2
    assert value(server, "normserve_requests_in_flight") == 0


def test_the_page_shows_all_workers_together(server: RunningServer) -> None:
    def shown() -> dict[str, Any]:
        return json.loads(get(server, "/api/overview?minutes=1"))

    until(lambda: shown()["now"])
    before = shown()["total"]["requests"]
    with Load(server.grpc_address) as load:
        until(lambda: sum(tally.answered for tally in load.tallies) > 200)
    sent = sum(tally.sent for tally in load.tallies)
    until(lambda: shown()["total"]["requests"] >= before + sent)
    found = shown()
    assert found["total"]["requests"] >= found["total"]["latency_seconds"]["compute"]["count"] >= sent
    (digits,) = (model for model in found["models"] if model["model"] == "digits")
    assert (digits["state"], digits["batch_norms"]) == ("READY", {"folded": 8, "left": 0})


def test_a_killed_worker_is_replaced_and_its_counts_stay(server: RunningServer) -> None:
    restarts = value(server, "normserve_worker_restarts_total")
    counts = []
    with Load(server.grpc_address, wait=True) as load:
        counts.append(value(server, OK_COUNT))
        victim = children(server.process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        while value(server, "normserve_worker_restarts_total") == restarts or value(server, "normserve_workers") < 2:
            counts.append(value(server, OK_COUNT))
            assert time.monotonic() < killed + 60
            time.sleep(0.1)
        assert value(server, "normserve_worker_restarts_total") == restarts + 1
        marks = [tally.answered for tally in load.tallies]
        until(lambda: all(tally.answered > mark + 5 for tally, mark in zip(load.tallies, marks, strict=True)))
    counts.append(value(server, OK_COUNT))
    assert counts == sorted(counts)
    failed = [code for tally in load.tallies for code in tally.codes if code is not grpc.StatusCode.OK]
    assert set(failed) <= {grpc.StatusCode.UNAVAILABLE}
    assert len(failed) <= 3 * CLIENTS  # what the dead worker was at, and who came back to it before its port was closed
    assert sum(tally.answered for tally in load.tallies) + len(failed) == sum(tally.sent for tally in load.tallies)
    assert victim not in children(server.process.pid)
    workers = children(server.process.pid)
    assert len(workers) == 2
    written = {path.stem.rpartition("_")[2] for path in (folder_of(workers[0]) / "metrics").iterdir()}
    assert written == {"0", "1"}  # the new one goes on where the old one has stopped


def test_the_service_stays_ready_while_a_worker_is_replaced(server: RunningServer) -> None:
    os.kill(children(server.process.pid)[1], signal.SIGKILL)
    until(lambda: value(server, "normserve_workers") == 1, 5)
    assert '"ready": true' in get(server, "/health/ready")
    until(lambda: value(server, "normserve_workers") == 2)


def test_workers_name_themselves_in_the_log(server: RunningServer) -> None:
    assert {'"worker":0', '"worker":1'} <= set(re.findall(r'"worker":\d', server.log))


def test_open_files_are_as_many_as_the_system_gives(server: RunningServer) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for worker in ("supervisor", "0", "1"):
        assert value(server, f'process_max_fds{{worker="{worker}"}}') == hard


def test_the_documented_metrics_are_the_exported_ones(server: RunningServer) -> None:
    shown = exported(text_string_to_metric_families(get(server, "/metrics")))
    assert shown.items() <= documented().items()
    assert {name for name in documented() if "gpu_" not in name} - shown.keys() <= {"normserve_requests_cut_short_total"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_nothing(digits_repository: Path, cache_dir: Path, number: signal.Signals) -> None:
    arguments = ("--workers", "2", "--cache-dir", str(cache_dir))
    with running_server(digits_repository, arguments=arguments) as server, Load(server.grpc_address) as load:
        workers = children(server.process.pid)
        if number is signal.SIGTERM:  # as systemd does it, to every process at once
            for worker in workers:
                os.kill(worker, number)
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
        assert not any(alive(worker) for worker in workers)
    for tally in load.tallies:
        tally.check_drained()


def test_a_second_signal_ends_all_at_once(digits_repository: Path, cache_dir: Path) -> None:
    arguments = ("--workers", "2", "--cache-dir", str(cache_dir), "--drain-delay-seconds", "60")
    with running_server(digits_repository, arguments=arguments) as server:
        workers = children(server.process.pid)
        server.process.terminate()
        until(lambda: server.log.count('"draining"') == 3)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(server, "/health/ready")
        server.process.terminate()
        assert server.process.wait(10) == 128 + signal.SIGTERM
        assert not any(alive(worker) for worker in workers)


def test_a_replacement_that_serves_less_takes_no_calls(digits_repository: Path, cache_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_repository, tmp_path / "r")
    arguments = ("--workers", "2", "--cache-dir", str(cache_dir), "--log-format", "json")
    with running_server(tmp_path / "r", arguments=arguments) as server:
        (tmp_path / "r" / "digits").rename(tmp_path / "r" / ".hidden")
        os.kill(children(server.process.pid)[0], signal.SIGKILL)
        until(lambda: '"missing":["digits/1"]' in server.log)
        assert value(server, "normserve_workers") == 1
        assert '"ready": true' in get(server, "/health/ready")
        for _ in range(8):
            with grpc.insecure_channel(server.grpc_address, CHANNEL) as channel:
                infer(GRPCInferenceServiceStub(channel))
        (tmp_path / "r" / ".hidden").rename(tmp_path / "r" / "digits")
        until(lambda: value(server, "normserve_workers") == 2)
        assert not re.search('Traceback|"exception"', server.log)


def test_workers_do_not_outlive_their_supervisor(digits_repository: Path, cache_dir: Path) -> None:
    arguments = ("--workers", "2", "--cache-dir", str(cache_dir))
    with running_server(digits_repository, arguments=arguments) as server, Load(server.grpc_address) as load:
        workers = children(server.process.pid)
        folder = folder_of(workers[0])
        server.process.kill()
        until(lambda: not any(alive(worker) for worker in workers), 10)
        assert not folder.exists()
    for tally in load.tallies:
        tally.check_drained()


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "normserve_server", "--repository", str(repository), "--workers", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_what_no_worker_can_start_with_is_one_clear_line(digits_repository: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "absent", "--grpc-port", "0", "--http-port", "0", "--log-level", "error")
    assert result.returncode == 1
    assert result.stderr == f"normserve serve: repository: there is no folder {tmp_path}/absent\n"
    result = run(digits_repository, "--workers", "0")
    assert (result.returncode, "workers: wanted greater than or equal to 1, got '0'" in result.stderr) == (2, True)


def test_a_port_in_use_is_one_clear_line(server: RunningServer, digits_repository: Path) -> None:
    ports = [address.rpartition(":")[2] for address in (server.grpc_address, server.http_address)]
    result = run(digits_repository, "--grpc-port", ports[0], "--http-port", "0")
    assert (result.returncode, result.stderr) == (
        1,
        f"normserve serve: gRPC port {ports[0]} on 127.0.0.1: Address already in use\n",
    )
    result = run(digits_repository, "--grpc-port", "0", "--http-port", ports[1])
    assert (result.returncode, result.stderr) == (
        1,
        f"normserve serve: HTTP port {ports[1]} on 127.0.0.1: Address already in use\n",
    )


def test_without_metrics_nothing_is_recorded(digits_repository: Path, cache_dir: Path) -> None:
    arguments = ("--no-metrics", "--cache-dir", str(cache_dir))
    with (
        running_server(digits_repository, arguments=arguments) as server,
        grpc.insecure_channel(server.grpc_address, CHANNEL) as channel,
    ):
        assert infer(GRPCInferenceServiceStub(channel)).model_name == "digits"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(server, "/metrics")
        assert '"ready": true' in get(server, "/health/ready")
        shown = json.loads(get(server, "/api/overview"))
        assert (shown["server"]["recording"], shown["total"]["requests"]) == (False, 0)
        assert "digits" in {model["model"] for model in shown["models"]}
