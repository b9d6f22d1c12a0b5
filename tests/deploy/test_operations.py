"""docs/operations.md against the code. Its table of metrics is compared in tests/e2e/test_metrics.py, with a server."""

import re
from pathlib import Path

from normserve_server.settings import Settings
from pydantic_core import PydanticUndefined

OPERATIONS = (Path(__file__).parents[2] / "docs/operations.md").read_text()


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", OPERATIONS, re.MULTILINE | re.DOTALL).group(1)


def documented_settings() -> dict[str, str]:
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \|$", section("Settings"), re.MULTILINE))


def test_every_setting_is_documented_and_no_other() -> None:
    assert list(documented_settings()) == list(Settings.model_fields)


def test_the_documented_defaults_are_the_defaults() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items() if field.default_factory is None}
    words = {PydanticUndefined: "required", None: "none"}
    expected = {name: words.get(default, f"`{default}`") for name, default in defaults.items()}
    assert {name: documented_settings()[name] for name in defaults} == expected


def test_the_documented_ports_are_the_defaults() -> None:
    ports = [int(port) for port in re.findall(r"^\| (\d+) \|", section("Ports"), re.MULTILINE)]
    assert ports == [Settings.model_fields[name].default for name in ("grpc_port", "http_port")]
