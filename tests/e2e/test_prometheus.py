"""A real Prometheus with our scrape configuration reads a real server, and every query of the dashboard gives data.

What the server exports is also held against the table in docs/operations.md.
"""

import http.client
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from normserve import Client, NormserveError
from normserve.testing import RunningServer, free_port
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
SCRAPE_CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/latency.json").read_text())

TARGETS = [
    pytest.param(target, id=f"{panel['id']}{target['refId']}-{panel['title']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
]
ALL = {"instance": ".*", "model": ".*", "method": "ModelInfer", "__rate_interval": "8s"}
ONE_MODEL = {**ALL, "model": "digits"}

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not on PATH; the distribution's package prometheus has both",
)


def get(address: str, path: str, **query: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}?{urllib.parse.urlencode(query)}", timeout=5) as response:
        return response.read().decode()


def answers(address: str, path: str) -> bool:
    try:
        get(address, path)
    except (OSError, http.client.HTTPException):
        return False
    return True


def samples(prometheus: str, query: str) -> list[Any]:
    return json.loads(get(prometheus, "/api/v1/query", query=query))["data"]["result"]


def numbers(result: list[Any]) -> list[float]:
    values = [float(sample["value"][1]) for sample in result]
    return [value for value in values if not np.isnan(value)]


def substituted(expression: str, values: dict[str, str]) -> str:
    """The query as Grafana sends it; a variable that the dashboard does not have stays, and Prometheus refuses it."""
    for name, value in values.items():
        expression = expression.replace(f"${name}", value)
    return expression


def traffic(address: str, stop: threading.Event) -> None:
    """What the panels are about: answers, refusals by the caller's fault, and a call that concerns no model."""
    with Client(address) as client:
        while not stop.is_set():
            client.infer("digits", {"image": np.zeros((3, 1, 8, 8), np.float32)})
            client.layer_norm(np.ones((2, 4), np.float32), (4,))
            client.is_ready("digits")
            for model, shape in (("digits", (1, 1, 9, 9)), ("absent", (1, 1, 8, 8))):
                with pytest.raises(NormserveError):
                    client.infer(model, {"image": np.zeros(shape, np.float32)})
            time.sleep(0.01)


@pytest.fixture(scope="module")
def busy_server(digits_server: RunningServer) -> Iterator[RunningServer]:
    stop = threading.Event()
    thread = threading.Thread(target=traffic, args=(digits_server.grpc_address, stop))
    thread.start()
    try:
        yield digits_server
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def prometheus(busy_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has scraped the busy server a few times."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load(SCRAPE_CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"], job["relabel_configs"]  # they name containers
    job["static_configs"] = [{"targets": [busy_server.http_address]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    flags = {"config.file": folder / "prometheus.yml", "storage.tsdb.path": folder / "data", "web.listen-address": address}
    with (folder / "log").open("w") as log:
        command = ["prometheus", *(f"--{name}={value}" for name, value in flags.items())]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        until(lambda: answers(address, "/-/ready"), process, folder / "log")
        until(lambda: numbers(samples(address, "min(count_over_time(up[1m])) > 3")), process, folder / "log")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def until(condition: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@needs_prometheus
def test_promtool_finds_nothing_wrong_in_the_scrape_configuration() -> None:
    result = subprocess.run(
        ["promtool", "check", "config", str(SCRAPE_CONFIG)], check=False, capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, result.stdout + result.stderr


@needs_prometheus
def test_the_target_is_up(prometheus: str) -> None:
    (target,) = json.loads(get(prometheus, "/api/v1/targets"))["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["scrapePool"] == "normserve"


@needs_prometheus
@pytest.mark.parametrize("values", [ALL, ONE_MODEL], ids=["all", "digits"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_panels_query_gives_data(prometheus: str, target: dict[str, Any], values: dict[str, str]) -> None:
    expression = substituted(target["expr"], values)
    result = samples(prometheus, expression)
    assert numbers(result), f"no number for {expression}: {result}"


@needs_prometheus
@pytest.mark.parametrize("target", TARGETS)
def test_a_legend_names_labels_that_the_query_gives(prometheus: str, target: dict[str, Any]) -> None:
    result = samples(prometheus, substituted(target["expr"], ALL))
    wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    assert all(wanted <= sample["metric"].keys() for sample in result if sample["metric"])
    assert not wanted or any(sample["metric"] for sample in result)


@needs_prometheus
def test_the_variables_offer_values(prometheus: str) -> None:
    for variable in (v for v in DASHBOARD["templating"]["list"] if v["type"] == "query"):
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
        query = {"match[]": substituted(selector, ALL)}
        assert json.loads(get(prometheus, f"/api/v1/label/{label}/values", **query))["data"], variable["name"]


@needs_prometheus
def test_the_error_ratios_are_those_of_the_traffic(prometheus: str) -> None:
    """Per round one ModelInfer is answered, and two are refused for what their caller sent."""
    (panel,) = (panel for panel in DASHBOARD["panels"] if panel["title"] == "Error ratio")
    server, callers = (numbers(samples(prometheus, substituted(t["expr"], ALL)))[0] for t in panel["targets"])
    assert server == 0
    assert callers == pytest.approx(2 / 3, abs=0.1)


@needs_prometheus
def test_the_phases_add_up_to_the_whole_request(prometheus: str) -> None:
    (panel,) = (panel for panel in DASHBOARD["panels"] if panel["title"].startswith("Mean"))
    moment = str(time.time())
    phases, whole = (
        sum(numbers(json.loads(get(prometheus, "/api/v1/query", query=query, time=moment))["data"]["result"]))
        for query in (
            substituted(panel["targets"][0]["expr"], ONE_MODEL),
            'rate(normserve_request_duration_seconds_sum{model="digits",method="ModelInfer"}[8s])'
            '/ rate(normserve_request_duration_seconds_count{model="digits",method="ModelInfer"}[8s])',
        )
    )
    assert 0.5 * whole < phases <= whole * 1.001


@pytest.fixture(scope="module")
def exported(busy_server: RunningServer) -> dict[str, tuple[str, frozenset[str]]]:
    """By name, as queried: type and labels of each of our metrics, le left out."""
    deadline = time.monotonic() + 20
    while not all(label in (text := get(busy_server.http_address, "/metrics")) for label in ('"NOT_FOUND"', '"Normalize"')):
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    families = [f for f in text_string_to_metric_families(text) if f.name.startswith("normserve_")]
    return {
        f.name + ("_total" if f.type == "counter" else ""): (
            f.type,
            frozenset(label for sample in f.samples for label in sample.labels) - {"le"},
        )
        for f in families
    }


def test_every_metric_that_the_dashboard_names_is_exported(exported: dict[str, Any]) -> None:
    text = json.dumps(DASHBOARD)
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bnormserve_\w+", text)}
    assert named
    assert named <= exported.keys()
