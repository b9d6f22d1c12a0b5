"""Workers that hang, or are killed at a bad moment: what they held up goes on, and what they leave is cleared away."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from normserve.testing import RunningServer, running_server
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from workers_load import until, value

LOGGED = {"log_verbose_level": pb.LogSettingsRequest.SettingValue(uint32_param=1)}


def workers(server: RunningServer) -> float:
    return value(server, "normserve_workers")


def logged(server: RunningServer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def pid_of(server: RunningServer, worker: int) -> int:
    def started() -> list[int]:
        return [line["pid"] for line in logged(server) if line["event"] == "worker started" and line["worker"] == worker]

    until(started)
    return started()[-1]


@contextmanager
def stub_of(server: RunningServer) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc_address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield GRPCInferenceServiceStub(channel)


def test_one_that_hangs_is_replaced_and_holds_up_nobody_for_long(digits_repository: Path, cache_dir: Path) -> None:
    arguments = ("--workers", "2", "--cache-dir", str(cache_dir), "--log-format", "json", "--worker-timeout-seconds", "3")
    with running_server(digits_repository, arguments=arguments, wait_until="live") as server:
        os.kill(pid_of(server, 1), signal.SIGSTOP)  # as it loads its libraries
        until(lambda: workers(server) == 1)
        os.kill(pid_of(server, 1), signal.SIGKILL)
        until(lambda: workers(server) == 2)
        events = [line["event"] for line in logged(server) if line.get("worker") == 1]
        events = events[events.index("worker ended") :]
        assert events.index("ready") < events.index("listening")  # as the other takes calls already

        with stub_of(server) as stub:  # whose worker is the one that does not hang
            stub.ServerLive(pb.ServerLiveRequest(), timeout=10)
            for worker in (0, 1):
                os.kill(pid_of(server, worker), signal.SIGSTOP)
                try:
                    stub.ServerLive(pb.ServerLiveRequest(), timeout=1)
                    break
                except grpc.RpcError:
                    os.kill(pid_of(server, worker), signal.SIGCONT)
            stopped = pid_of(server, worker)
            change = stub.LogSettings.future(pb.LogSettingsRequest(settings=LOGGED), timeout=30)
            stub.ModelStatistics(pb.ModelStatisticsRequest(), timeout=30)
            assert change.result().settings["log_verbose_level"].uint32_param == 1
            until(lambda: workers(server) == 2 and pid_of(server, worker) != stopped)
        assert "worker does not answer and is killed" in server.log


def test_what_a_killed_worker_leaves_is_cleared_and_one_that_hangs_does_not_stop_the_end(
    digits_repository: Path, cache_dir: Path, tmp_path: Path
) -> None:
    arguments = ("--workers", "2", "--cache-dir", str(cache_dir), "--log-format", "json", "--drain-timeout-seconds", "0.5")
    explicit = ("--model-control-mode", "explicit")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    load = pb.RepositoryModelLoadRequest(model_name="sent")
    load.parameters["config"].string_param = "{}"
    load.parameters["file:1/model.onnx"].bytes_param = (digits_repository / "digits/1/model.onnx").read_bytes()
    with running_server(digits_repository, arguments=(*arguments, *explicit), environment=environment) as server:
        with stub_of(server) as stub:
            stub.RepositoryModelLoad(load, timeout=60)
        (folder,) = tmp_path.iterdir()
        assert len(list(folder.rglob("sent"))) == 2
        assert list(folder.glob("metrics/gauge_live*_1.db"))
        victim = pid_of(server, 1)
        os.kill(victim, signal.SIGKILL)
        until(lambda: not list(folder.glob("metrics/gauge_live*_1.db")), 5)  # what it said last is no gauge of the service
        until(lambda: pid_of(server, 1) != victim)
        until(lambda: workers(server) == 2)
        assert len(list(folder.rglob("sent"))) == 2  # the new one's too
        assert list(tmp_path.iterdir()) == [folder]

        os.kill(pid_of(server, 0), signal.SIGSTOP)
        server.process.terminate()
        assert server.process.wait(20) == 1
        assert "workers that do not end are killed" in server.log
    assert not list(tmp_path.iterdir())
