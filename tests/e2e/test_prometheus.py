"""A real Prometheus with our configuration reads a real server: every query of the dashboards and rules gives data.

Those that give none are listed with the reason. What the server exports is held against its table in test_metrics.py.
"""

import bisect
import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dashboards import DASHBOARDS, ROOT, substituted, targets
from metered_server import MeteredServer, get
from normserve.testing import free_port
from normserve_server import gpus
from normserve_server.metrics import SECONDS

CONFIGURATION = ROOT / "deploy/prometheus/prometheus.yml"
TARGETS = [pytest.param(name, title, target, id=f"{name}-{title}-{target['refId']}") for name, title, target in targets()]
ALL = {"instance": ".*", "model": ".*", "method": "ModelInfer", "__rate_interval": "30s"}
SOME_MODELS = {**ALL, "model": "digits|crowded"}
EMPTY = {  # dashboard and panel, and why it has nothing to show here
    ("overview", "Alerts"): "nothing is wrong",
    **({} if gpus.found() else {(name, title): "there is no GPU" for name, title, _ in targets() if name == "gpus"}),
}
QUIET = {"NormserveLatencyBurnsBudget", "NormserveLatencyBurnsBudgetSlowly"}  # may fire on a machine with better things to do
ABSENT_ON_ONE = {"worker"}  # a label of several processes' series

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not on PATH; the distribution's package prometheus has both",
)


def answers(address: str, path: str) -> bool:
    try:
        get(address, path)
    except (OSError, http.client.HTTPException):
        return False
    return True


def samples(prometheus: str, query: str, **when: str) -> list[Any]:
    return list(json.loads(get(prometheus, "/api/v1/query", query=query, **when))["data"]["result"])


def numbers(result: list[Any]) -> list[float]:
    values = [float(sample["value"][1]) for sample in result]
    return [value for value in values if not np.isnan(value)]


def configured(folder: Path, target: str) -> Path:
    """Writes our configuration and rules for a server of this machine, with all that they wait for a second apart."""
    config = yaml.safe_load(CONFIGURATION.read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"], job["relabel_configs"]  # they name containers
    job["static_configs"] = [{"targets": [target]}]
    (folder / "rules").mkdir()
    for path in (CONFIGURATION.parent / "rules").glob("*.yml"):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
        (folder / "rules" / path.name).write_text(yaml.safe_dump(rules))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


@pytest.fixture(scope="module")
def prometheus(metered: MeteredServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has scraped the busy server a few times, and has seen a swap."""
    folder = tmp_path_factory.mktemp("prometheus")
    address = f"127.0.0.1:{free_port()}"
    flags = {
        "config.file": configured(folder, metered.server.http_address),
        "storage.tsdb.path": folder / "data",
        "web.listen-address": address,
        "enable-feature": "exemplar-storage",
    }
    with (folder / "log").open("w") as log:
        command = ["prometheus", *(f"--{name}={value}" for name, value in flags.items())]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)

    def until(condition: Any) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)

    try:
        until(lambda: answers(address, "/-/ready"))
        until(lambda: numbers(samples(address, "min(count_over_time(up[1m])) > 2")))
        metered.swap()
        until(lambda: samples(address, 'increase(normserve_model_swaps_total{outcome="done"}[30s]) > 0'))
        until(lambda: numbers(samples(address, "min(count_over_time(normserve:requests:rate5m[1m])) > 2")))
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


@needs_prometheus
def test_promtool_finds_nothing_wrong_in_the_configuration() -> None:
    command = ["promtool", "check", "config", str(CONFIGURATION)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 rule files found" in result.stdout


@needs_prometheus
def test_the_target_is_up(prometheus: str) -> None:
    (target,) = json.loads(get(prometheus, "/api/v1/targets"))["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["scrapePool"] == "normserve"


@needs_prometheus
@pytest.mark.parametrize("values", [ALL, SOME_MODELS], ids=["all", "some"])
@pytest.mark.parametrize(("dashboard", "panel", "target"), TARGETS)
def test_a_panels_query_gives_data(
    prometheus: str, dashboard: str, panel: str, target: dict[str, Any], values: dict[str, str]
) -> None:
    expression = substituted(target["expr"], values)
    result = samples(prometheus, expression)
    if (dashboard, panel) not in EMPTY or not target["refId"]:
        assert numbers(result), f"no number for {expression}: {result}"


@needs_prometheus
@pytest.mark.parametrize(("dashboard", "panel", "target"), TARGETS)
def test_a_legend_names_labels_that_the_query_gives(
    prometheus: str, dashboard: str, panel: str, target: dict[str, Any]
) -> None:
    if (dashboard, panel) in EMPTY:
        pytest.skip(EMPTY[dashboard, panel])
    result = samples(prometheus, substituted(target["expr"], ALL))
    wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"] + target.get("titleFormat", ""))) - ABSENT_ON_ONE
    named = [sample["metric"] for sample in result if sample["metric"].keys() - {"le"}]
    assert all(wanted - {"model"} <= metric.keys() for metric in named)  # an empty one is no label to Prometheus
    assert not wanted or any(wanted <= sample["metric"].keys() for sample in result)


@needs_prometheus
def test_what_is_said_to_be_empty_is_in_a_dashboard() -> None:
    assert EMPTY.keys() <= {(name, title) for name, title, _ in targets()}


@needs_prometheus
@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_the_variables_offer_values(prometheus: str, dashboard: dict[str, Any]) -> None:
    for variable in (v for v in dashboard["templating"]["list"] if v["type"] == "query"):
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()
        query = {"match[]": substituted(selector, ALL)}
        assert json.loads(get(prometheus, f"/api/v1/label/{label}/values", **query))["data"], variable["name"]


def rules(prometheus: str, kind: str) -> list[dict[str, Any]]:
    groups = json.loads(get(prometheus, "/api/v1/rules", type=kind))["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


@needs_prometheus
def test_every_recording_rule_gives_data(prometheus: str) -> None:
    recorded = rules(prometheus, "record")
    assert {rule["health"] for rule in recorded} == {"ok"}, recorded
    assert len(recorded) == 11
    for rule in recorded:
        assert numbers(samples(prometheus, rule["name"])), rule["name"]
        assert numbers(samples(prometheus, rule["query"])), rule["query"]


@needs_prometheus
def test_every_alert_is_evaluated_over_series_that_are_there_and_none_fires(prometheus: str) -> None:
    alerts = rules(prometheus, "alert")
    assert {rule["health"] for rule in alerts} == {"ok"}, alerts
    assert len(alerts) == 10
    for rule in alerts:
        for name in re.findall(r"\bnormserve[_:][\w:]+|\bup\b", rule["query"]):
            assert numbers(samples(prometheus, f"count({name})")), name
    assert {rule["name"] for rule in alerts if rule["state"] != "inactive"} <= QUIET


@needs_prometheus
def test_the_error_ratios_are_those_of_the_traffic(prometheus: str) -> None:
    """Per round one ModelInfer is answered, and two are refused for what their caller sent."""
    server, callers = (
        numbers(samples(prometheus, substituted(expression, {**ALL, "model": "digits|"})))
        for title in ("Server errors by model", "Callers' errors by model")
        for name, panel, expression in [(name, panel, target["expr"]) for name, panel, target in targets()]
        if (name, panel) == ("overview", title)
    )
    assert server == [0, 0]
    assert sorted(callers) == [pytest.approx(1 / 2, abs=0.1), 1]  # of digits; and of no model that there is


@needs_prometheus
def test_the_phases_add_up_to_the_whole_request(prometheus: str) -> None:
    (expression,) = (target["expr"] for _, title, target in targets() if title == "Mean, stacked")
    moment = str(time.time())
    series = "normserve_request_duration_seconds_{}{{model='digits',method='ModelInfer'}}[30s]"
    (whole,) = numbers(samples(prometheus, f"rate({series.format('sum')}) / rate({series.format('count')})", time=moment))
    phases = sum(numbers(samples(prometheus, substituted(expression, {**ALL, "model": "digits"}), time=moment)))
    assert 0.5 * whole < phases <= whole * 1.001


@needs_prometheus
@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_the_percentiles_are_those_that_the_client_measured(prometheus: str, metered: MeteredServer, quantile: float) -> None:
    """To within a bucket: the client's times have its own share and the way there and back in them."""
    series = 'normserve_request_duration_seconds_{}{{model="steady",method="ModelInfer"}}'
    assert numbers(samples(prometheus, series.format("count"))) == [len(metered.steady_seconds)]
    (told,) = numbers(samples(prometheus, f"histogram_quantile({quantile}, {series.format('bucket')})"))
    measured = float(np.quantile(metered.steady_seconds, quantile, method="inverted_cdf"))
    assert abs(bisect.bisect_left(SECONDS, told) - bisect.bisect_left(SECONDS, measured)) <= 1, (told, measured)
