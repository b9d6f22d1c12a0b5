import json
import subprocess
import sys

import pytest
import structlog
from normserve_server.logs import Levels


@pytest.mark.parametrize(
    ("level", "passes"),
    [
        ("debug", {"debug", "info", "warning", "error", "critical"}),
        ("info", {"info", "warning", "error", "critical"}),
        ("warning", {"warning", "error", "critical"}),
        ("error", {"error", "critical"}),
    ],
)
def test_a_least_level_lets_the_higher_ones_pass(level: str, passes: set[str]) -> None:
    assert {
        method for method in ("debug", "info", "warning", "error", "critical") if wanted(Levels.of(level), method)
    } == passes


def wanted(levels: Levels, method: str) -> bool:
    try:
        return levels(None, method, {"event": "x"}) == {"event": "x"}
    except structlog.DropEvent:
        return False


def test_each_level_is_switched_alone() -> None:
    levels = Levels(info=True, warning=False, error=False, verbose_level=2)
    assert [wanted(levels, method) for method in ("debug", "info", "warning", "error", "critical")] == [
        True,
        True,
        *[False] * 3,
    ]


def test_loggers_that_have_written_follow_every_change() -> None:
    script = """
import structlog
from normserve_server import logs
levels = logs.configure("warning", "json")
log = structlog.get_logger("x")
bound = log.bind(model="m")
def write(number):
    for logger in (log, bound):
        logger.debug("debug", n=number), logger.info("info", n=number), logger.warning("warning", n=number)
write(1)
levels.info, levels.warning = True, False
write(2)
levels.verbose_level = 1
write(3)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(line["n"], line["event"], line.get("model")) for line in lines] == [
        (1, "warning", None),
        (1, "warning", "m"),
        (2, "info", None),
        (2, "info", "m"),
        *((3, event, model) for model in (None, "m") for event in ("debug", "info")),
    ]
