"""The dashboards as they are committed, and their queries as Grafana sends them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Dashboard, panel and query of each query there is; the marks are a panel of their own."""
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            yield from ((name, panel["title"], target) for target in panel["targets"])
        yield from ((name, mark["name"], mark | {"refId": "", "legendFormat": ""}) for mark in dashboard["annotations"]["list"])


def substituted(expression: str, values: dict[str, str]) -> str:
    """The query as Grafana sends it; a variable that the dashboard does not have stays, and Prometheus refuses it."""
    for name, value in values.items():
        expression = expression.replace(f"${name}", value)
    return expression
