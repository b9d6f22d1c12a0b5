"""The alerts: each has its paragraph, and was made to fire and to clear. Their queries: tests/e2e/test_prometheus.py."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from metrics_table import documented
from normserve_proto import normalization_pb2, normalizers_pb2, open_inference_pb2
from normserve_server.http.readings import METHODS
from normserve_server.metrics import SECONDS

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
RUNBOOK = (ROOT / "docs/alerts.md").read_text()
RULES = [
    rule
    for file in sorted((PROMETHEUS / "rules").glob("*.yml"))
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
CASES = [case for file in TESTS for test in yaml.safe_load(file.read_text())["tests"] for case in test["alert_rule_test"]]

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not on PATH; the distribution's package prometheus has it"
)


def paragraphs() -> dict[str, str]:
    """Of the runbook, by the anchor that a reader's browser makes of the heading."""
    parts = re.split(r"^## (.+)\n", RUNBOOK, flags=re.MULTILINE)[1:]
    return {title.lower().replace(" ", "-"): text.strip() for title, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_its_paragraph_and_its_severity(name: str) -> None:
    page, _, anchor = ALERTS[name]["annotations"]["runbook_url"].partition("#")
    assert (ROOT / page).read_text() == RUNBOOK
    severity = ALERTS[name]["labels"]["severity"]
    assert paragraphs()[anchor].startswith(f"{severity.capitalize()}. ")


def test_no_paragraph_is_about_an_alert_that_is_gone() -> None:
    assert {anchor for anchor in paragraphs() if anchor.startswith("normserve")} == {name.lower() for name in ALERTS}


def test_links_within_the_runbook_lead_somewhere() -> None:
    assert set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK)) <= paragraphs().keys()


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_made_to_fire_and_then_to_clear(name: str) -> None:
    outcomes = [bool(case["exp_alerts"]) for case in CASES if case["alertname"] == name]
    assert True in outcomes
    assert outcomes[outcomes.index(True) + 1 :][0] is False


@needs_promtool
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_promtool_s_tests_of_the_rules_pass(file: Path) -> None:
    result = subprocess.run(["promtool", "test", "rules", str(file)], check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_metric_that_a_rule_or_the_runbook_names_is_there() -> None:
    text = "\n".join([RUNBOOK, *(rule["expr"] for rule in RULES)])
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bnormserve_\w+", text)}
    assert len(named) > 8
    assert named <= documented().keys()


def test_every_recorded_series_that_an_alert_names_is_recorded() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    named = {name for alert in ALERTS.values() for name in re.findall(r"\bnormserve:[\w:]+", alert["expr"])}
    assert named <= recorded


def test_the_latency_objective_is_a_bound_of_the_histogram_and_one_everywhere() -> None:
    bounds = {bound for rule in RULES for bound in re.findall(r'le="([\d.]+)"', rule["expr"])}
    assert len(bounds) == 1
    (bound,) = map(float, bounds)
    assert bound in SECONDS
    assert f"{bound * 1000:g} ms" in paragraphs()["the-two-objectives"]


def test_the_same_codes_are_the_server_s_fault_everywhere() -> None:
    told = re.search(r"count as its fault:\s+([A-Z_,\s]+)\.", RUNBOOK).group(1)
    codes = {"|".join(re.split(r",\s+", told)), *re.findall(r'code=~"([\w|]+)"', " ".join(rule["expr"] for rule in RULES))}
    assert len(codes) == 1
    assert codes.pop() in (ROOT / "docs/operations.md").read_text()


def test_the_requests_that_compute_are_those_of_the_page() -> None:
    services = (open_inference_pb2, normalization_pb2, normalizers_pb2)
    methods = {m.name for file in services for service in file.DESCRIPTOR.services_by_name.values() for m in service.methods}
    (pattern,) = {found for rule in RULES for found in re.findall(r'requests_total\{method=~"([^"]+)"', rule["expr"])}
    assert {method for method in methods if re.fullmatch(pattern, method)} == METHODS
    assert all(rule["expr"].count("requests_total") == rule["expr"].count(pattern) for rule in RULES)
    assert all(method in paragraphs()["the-two-objectives"] for method in METHODS)


def test_prometheus_loads_the_rules_from_where_the_composition_mounts_them() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    loaded = [file for pattern in config["rule_files"] for file in PROMETHEUS.glob(pattern)]
    assert sorted(loaded) == sorted((PROMETHEUS / "rules").iterdir())
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]
    assert any(volume.startswith("./deploy/prometheus:/etc/prometheus") for volume in service["volumes"])
