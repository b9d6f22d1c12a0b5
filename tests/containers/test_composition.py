"""Containers for real: the image and the composition, built, called, scraped and stopped. `make test-containers`."""

import json
import threading
import urllib.parse
import urllib.request
from typing import Any

import numpy as np
import pytest
from docker_engine import until
from normserve import Client, NormserveError, RunningNormLayer, UnavailableError
from sklearn.datasets import load_digits

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

NO_RETRIES = [("grpc.enable_retries", 0)]


def prometheus(composition: Any, path: str, **query: str) -> Any:
    url = f"http://{composition.address('PROMETHEUS_PORT')}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)["data"]


def run(composition: Any, *command: str) -> Any:
    return composition.engine.attempt("exec", composition.container("server"), *command)


def digits() -> tuple[Any, Any]:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)[-60:], labels[-60:]


def test_a_model_answers_through_the_published_port(composition: Any) -> None:
    images, labels = digits()
    with Client(composition.address("GRPC_PORT")) as client:
        assert client.is_ready("digits")
        answers = client.infer("digits", {"image": images}, timeout=60)["logits"].argmax(axis=1)
        normalized = client.layer_norm(np.array([[1, 2, 3, 4]], np.float32), (4,), timeout=60)
    assert (answers == labels).mean() > 0.9
    np.testing.assert_allclose(normalized.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(normalized.std(), 1, atol=1e-4)


def test_prometheus_scrapes_the_server(composition: Any) -> None:
    with Client(composition.address("GRPC_PORT")) as client:
        client.infer("digits", {"image": digits()[0]}, timeout=60)
    (target,) = until(lambda: prometheus(composition, "targets")["activeTargets"])
    (target,) = until(lambda: [t for t in prometheus(composition, "targets")["activeTargets"] if t["health"] != "unknown"])
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["labels"] == {"job": "normserve", "instance": "server"}
    query = 'normserve_requests_total{model="digits",method="ModelInfer",code="OK"} > 0'
    assert until(lambda: prometheus(composition, "query", query=query)["result"])


def test_nobody_is_root_and_may_do_nothing_more(composition: Any) -> None:
    assert composition.state("server", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}") == "10001:10001 true"
    assert run(composition, "id", "--user").stdout.strip() == "10001"
    status = run(composition, "cat", "/proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


@pytest.mark.parametrize("folder", ["/", "/etc", "/opt/normserve/bin", "/models", "/usr/local/lib/normserve"])
def test_the_file_system_is_read_only(composition: Any, folder: str) -> None:
    as_root = composition.engine.attempt(
        "exec", "--user", "0", composition.container("server"), "touch", f"{folder}/written"
    )  # who may write everywhere else
    assert as_root.returncode != 0
    assert "Read-only file system" in as_root.stderr


@pytest.mark.parametrize("folder", ["/tmp", "/var/cache/normserve", "/var/lib/normserve"])
def test_three_places_may_be_written_to(composition: Any, folder: str) -> None:
    written = run(composition, "touch", f"{folder}/written")
    assert written.returncode == 0, written.stderr


def test_the_health_checks_say_why(composition: Any) -> None:
    log = json.loads(composition.state("server", "{{json .State.Health.Log}}"))
    assert [check["ExitCode"] for check in log if "ready" in check["Output"]][-1] == 0
    live = run(composition, "python3", "-I", "/usr/local/lib/normserve/healthcheck.py", "live")
    assert live.returncode == 0, live.stdout + live.stderr


def test_docker_stop_drains_and_exits_with_0(composition: Any) -> None:
    """Under load: every call is answered until the server refuses new ones, and what it kept is there after it starts again."""
    address = composition.address("GRPC_PORT")
    container = composition.container("server")
    with Client(address) as client:
        kept = client.normalizer("kept")
        kept.create(RunningNormLayer((4,)))
        kept.apply(np.ones((2, 4), np.float32))
    codes: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=call_until_refused, args=(address, mine)) for mine in codes]
    for thread in threads:
        thread.start()
    until(lambda: all(len(mine) > 5 for mine in codes))
    composition.engine.docker("stop", container)
    for thread in threads:
        thread.join()
    assert composition.engine.ask("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", container) == "exited 0"
    for mine in codes:
        assert set(mine[:-1]) == {"OK"}
        assert mine[-1] == "UNAVAILABLE"
    logs = composition.engine.attempt("logs", container)
    assert '"draining"' in logs.stdout + logs.stderr
    composition.up()
    with Client(address) as client:
        assert client.normalizer("kept").get().sequence == 1


def call_until_refused(address: str, codes: list[str]) -> None:
    tensor = np.ones((256, 1024), np.float32)
    with Client(address, options=NO_RETRIES) as client:
        while not codes or codes[-1] == "OK":
            try:
                client.layer_norm(tensor, (1024,), timeout=60)
                codes.append("OK")
            except UnavailableError:
                codes.append("UNAVAILABLE")
            except NormserveError as error:
                codes.append(str(error))
