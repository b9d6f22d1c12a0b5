"""Provisioning against the composition, and the dashboards' own shape. Their queries: tests/e2e/test_prometheus.py."""

import json
import re
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from dashboards import DASHBOARDS, panels
from metrics_table import documented

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
(SOURCE,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
(PROVIDER,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/normserve.yml").read_text())["providers"]
SCRAPE = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
PANELS = [pytest.param(panel, id=f"{name}-{panel['title']}") for name, board in DASHBOARDS.items() for panel in panels(board)]
GRAFANA_OWN = {"__rate_interval"}

each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)


def on_disk(service: str, path: str) -> Path:
    """The file of this repository that the service sees at `path`."""
    for volume in SERVICES[service]["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith(".") and PurePosixPath(path).is_relative_to(target):
            return ROOT / source / PurePosixPath(path).relative_to(target)
    raise AssertionError(f"{service} has nothing at {path}")


def variables(dashboard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def test_the_committed_dashboards_are_the_generated_ones() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="the dependency group `dashboards` is not installed")
    from write_dashboards import differences

    assert differences() == ""


def test_the_dashboards_are_those_that_readers_are_promised() -> None:
    assert DASHBOARDS.keys() == {"overview", "latency", "batching", "gpus", "normalizers"}


def test_grafana_finds_its_provisioning_where_it_looks() -> None:
    provisioning = on_disk("grafana", "/etc/grafana/provisioning")
    assert {folder.name for folder in provisioning.iterdir()} == {"datasources", "dashboards"}


def test_the_provider_and_the_home_page_are_the_mounted_dashboards() -> None:
    folder = on_disk("grafana", PROVIDER["options"]["path"])
    home = on_disk("grafana", SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home in list(folder.glob("*.json"))
    assert home.stem == "overview"


def test_prometheus_finds_its_configuration_where_it_is_told() -> None:
    (flag,) = (f for f in SERVICES["prometheus"]["command"] if f.startswith("--config.file="))
    assert on_disk("prometheus", flag.removeprefix("--config.file=")) == ROOT / "deploy/prometheus/prometheus.yml"


def test_the_data_source_is_the_compositions_prometheus() -> None:
    host, port = SOURCE["url"].removeprefix("http://").split(":")
    assert SOURCE["type"] == host == "prometheus"
    assert all(published.endswith(f":{port}") for published in SERVICES[host]["ports"])


def test_the_step_that_grafana_assumes_is_the_scrape_interval() -> None:
    assert SOURCE["jsonData"]["timeInterval"] == SCRAPE["global"]["scrape_interval"] == "5s"


def test_prometheus_scrapes_the_servers_of_the_composition() -> None:
    (job,) = SCRAPE["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    assert discovery["names"] == [name for name in SERVICES if name.startswith("server")]
    for name in discovery["names"]:
        assert any(published.endswith(f":{discovery['port']}") for published in SERVICES[name]["ports"])


@each_dashboard
def test_the_dashboards_data_source_is_the_provisioned_one(dashboard: dict[str, Any]) -> None:
    shown = panels(dashboard)
    found = variables(dashboard)
    assert found.pop("datasource")["current"]["value"] == SOURCE["uid"]
    for part in (*shown, *(t for panel in shown for t in panel["targets"]), *found.values(), *dashboard["annotations"]["list"]):
        assert part["datasource"] == {"type": SOURCE["type"], "uid": "${datasource}"}


@each_dashboard
def test_every_variable_that_is_used_is_there_and_the_other_way_round(dashboard: dict[str, Any]) -> None:
    text = json.dumps([dashboard["panels"], dashboard["templating"], dashboard["annotations"]])
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__all"}
    assert used - GRAFANA_OWN == variables(dashboard).keys()
    assert used >= GRAFANA_OWN


@each_dashboard
def test_swaps_are_marked_on_every_dashboard(dashboard: dict[str, Any]) -> None:
    (mark,) = dashboard["annotations"]["list"]
    assert mark["enable"]
    assert "normserve_model_swaps_total" in mark["expr"]
    assert {"model", "outcome"} <= set(re.findall(r"\{\{(\w+)\}\}", mark["titleFormat"]))


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references)) > 0


@each_dashboard
def test_identifiers_are_unique_and_panels_lie_beside_each_other(dashboard: dict[str, Any]) -> None:
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(identifiers) == len(set(identifiers))
    for one, other in combinations([panel["gridPos"] for panel in dashboard["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in dashboard["panels"]) == 24


def test_no_two_dashboards_have_one_address() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


def test_every_metric_of_the_table_is_shown_somewhere_or_used_by_a_rule() -> None:
    """Triton's names are for others' dashboards; the others are there to be looked at."""
    rules = " ".join(path.read_text() for path in (ROOT / "deploy/prometheus/rules").glob("*.yml"))
    named = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bnormserve_\w+", json.dumps(DASHBOARDS) + rules)
    }
    assert named == {name for name in documented() if not name.startswith("nv_")}
