"""/api/overview of real servers: its numbers against the callers', and its percentiles against a real Prometheus's."""

import http.client
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from normserve import Client, NormserveError
from normserve.testing import RunningServer, free_port, running_server
from onnx import TensorProto, helper

CALLS = 150
REFUSED = 10


def get(address: str, path: str, **query: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}?{urllib.parse.urlencode(query)}", timeout=5) as response:
        return json.load(response)


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What `condition` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return result


def norm_behind_two(folder: Path) -> None:
    """A model with a batch norm that cannot be folded: what it normalizes is a nonlinear function's."""
    names = ("scale", "bias", "mean", "var")
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [3], [1.5, 2.0, 0.5]) for name in names]
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("BatchNormalization", ["h", *names], ["n"], name="norm"),
        helper.make_node("Sigmoid", ["n"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, "left", [x], [y], constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1/model.onnx")


@pytest.fixture(scope="module")
def server(digits_repository: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that nobody has called yet."""
    repository = tmp_path_factory.mktemp("left")
    norm_behind_two(repository / "left")
    arguments = ("--cache-dir", str(cache_dir), "--repository", str(digits_repository))
    with running_server(repository, arguments=arguments) as server:
        yield server


@pytest.fixture(scope="module")
def shown(server: RunningServer) -> dict[str, Any]:
    """What is shown of `CALLS` answered requests and `REFUSED` refused ones."""
    until(lambda: get(server.http_address, "/api/overview")["now"])  # it has begun to count
    with Client(server.grpc_address) as client:
        for number in range(CALLS):
            client.infer("digits", {"image": np.zeros((1 + number % 5, 1, 8, 8), np.float32)})
        for _ in range(REFUSED):
            with pytest.raises(NormserveError):
                client.infer("digits", {"image": np.zeros((1, 1, 9, 9), np.float32)})
    return until(lambda: settled(server))


def settled(server: RunningServer) -> dict[str, Any] | None:
    shown = get(server.http_address, "/api/overview", minutes="1")
    return shown if shown["total"]["requests"] >= CALLS + REFUSED else None


def test_requests_and_their_codes_are_those_of_the_callers(shown: dict[str, Any]) -> None:
    total, series = shown["total"], shown["series"]
    assert total["codes"] == {"OK": CALLS, "INVALID_ARGUMENT": REFUSED}
    assert (total["server_error_ratio"], total["caller_error_ratio"]) == (0, pytest.approx(REFUSED / (CALLS + REFUSED)))
    lengths = {len(values) for values in (series["age_seconds"], *series["codes_per_second"].values())}
    assert lengths == {len(series["latency_seconds"]["compute"]["p99"])}
    assert sum(bucket["batches"] for bucket in total["batch_sizes"]) == total["batch_size"]["count"]
    assert (shown["server"]["ready"], shown["server"]["recording"]) == (True, True)


def test_models_are_shown_with_what_became_of_their_batch_norms(shown: dict[str, Any]) -> None:
    models = {f"{model['model']}/{model['version']}": model for model in shown["models"]}
    digits, left = models["digits/1"], models["left/1"]
    assert (digits["state"], digits["provider"], digits["batch_norms"]) == (
        "READY",
        "CPUExecutionProvider",
        {"folded": 8, "left": 0},
    )
    assert digits["errors"]["folded"] < 1e-5
    assert digits["load_seconds"] > 0
    assert left["batch_norms"] == {"folded": 0, "left": 1}
    ((reason, count),) = left["left_because"].items()
    assert (count, left["left"][0]["name"], left["left"][0]["reason"]) == (1, "norm", reason)
    assert models["normserve.layer_norm/1"]["built_in"]


def test_a_single_version_can_be_asked_for(server: RunningServer, shown: dict[str, Any]) -> None:
    for model, requests in (("digits/1", CALLS + REFUSED), ("left/1", 0)):
        assert get(server.http_address, "/api/overview", minutes="1", model=model)["total"]["requests"] == requests


@pytest.mark.parametrize(("query", "code", "text"), [("minutes=7", 400, "1, 5, 15, 60"), ("model=absent/1", 404, "digits/1")])
def test_what_cannot_be_shown_is_said(server: RunningServer, query: str, code: int, text: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(server.http_address, f"/api/overview?{query}&")
    assert (caught.value.code, text in caught.value.read().decode()) == (code, True)


@pytest.fixture
def prometheus(server: RunningServer, tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus that has scraped the server."""
    scrape = {"job_name": "normserve", "static_configs": [{"targets": [server.http_address]}]}
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    address = f"127.0.0.1:{free_port()}"
    flags = (f"--web.listen-address={address}", "--config.file=prometheus.yml", "--storage.tsdb.path=data")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *flags], stdout=log, stderr=log, cwd=tmp_path)
    try:
        until(lambda: queried(address, "normserve_build_info"))
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def queried(address: str, query: str) -> list[float]:
    try:
        found = get(address, "/api/v1/query", query=query)["data"]["result"]
    except (OSError, http.client.HTTPException):  # it has only just been started
        return []
    return [float(sample["value"][1]) for sample in found]


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not on PATH; it is a package of the distribution")
def test_percentiles_are_those_of_prometheus(shown: dict[str, Any], prometheus: str) -> None:
    """Of the same calls: all that the server has had."""
    for name, times in shown["total"]["latency_seconds"].items():
        metric, labels = ("request", "") if name == "request" else ("phase", f', phase="{name}"')
        series = f'normserve_{metric}_duration_seconds_bucket{{method="ModelInfer"{labels}}}'
        for label, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            (theirs,) = queried(prometheus, f"histogram_quantile({q}, sum by (le) ({series}))")
            assert times[label] == pytest.approx(theirs), (name, label)
