"""Provisioning against the composition, and the dashboard's own shape. Its queries: tests/e2e/test_prometheus.py."""

import json
import re
from itertools import combinations
from pathlib import Path, PurePosixPath

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
(SOURCE,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
(PROVIDER,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/normserve.yml").read_text())["providers"]
SCRAPE = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/latency.json").read_text())
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
GRAFANA_OWN = {"__rate_interval"}


def on_disk(service: str, path: str) -> Path:
    """The file of this repository that the service sees at `path`."""
    for volume in SERVICES[service]["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith(".") and PurePosixPath(path).is_relative_to(target):
            return ROOT / source / PurePosixPath(path).relative_to(target)
    raise AssertionError(f"{service} has nothing at {path}")


def test_grafana_finds_its_provisioning_where_it_looks() -> None:
    provisioning = on_disk("grafana", "/etc/grafana/provisioning")
    assert {folder.name for folder in provisioning.iterdir()} == {"datasources", "dashboards"}


def test_the_provider_and_the_home_page_are_the_mounted_dashboards() -> None:
    folder = on_disk("grafana", PROVIDER["options"]["path"])
    home = on_disk("grafana", SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home in list(folder.glob("*.json"))


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


def test_the_dashboards_data_source_is_the_provisioned_one() -> None:
    assert VARIABLES["datasource"]["current"]["value"] == SOURCE["uid"]
    for part in (*PANELS, *(t for panel in PANELS for t in panel["targets"]), *list(VARIABLES.values())[1:]):
        assert part["datasource"] == {"type": SOURCE["type"], "uid": "${datasource}"}


def test_every_variable_that_is_used_is_there_and_the_other_way_round() -> None:
    text = json.dumps([DASHBOARD["panels"], DASHBOARD["templating"]])
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__all"}
    assert used == VARIABLES.keys() | GRAFANA_OWN


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references)) > 0


def test_identifiers_are_unique_and_panels_lie_beside_each_other() -> None:
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identifiers) == len(set(identifiers))
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in DASHBOARD["panels"]) == 24
