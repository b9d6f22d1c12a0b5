import json
import subprocess
import sys

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from normserve_server.logs import PIPE_BYTES, Levels, pieces


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


def test_many_events_are_lines_as_one_is() -> None:
    script = """
import structlog
from normserve_server import logs
levels = logs.configure("info", "json", worker=3)
structlog.get_logger("x").info("one", id="é", large=1 << 70, path="\\udcff")
common = logs.common("info")
logs.write(b"".join(logs.as_json({**common, "event": "many", "n": n, "id": "é" * n}) + b"\\n" for n in range(60)))
logs.write(b"")
assert logs.common("debug") is None
levels.info = False
assert logs.common("info") is None
assert logs.common("warning") == {"level": "warning", "worker": 3}
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    one, *many = [json.loads(line) for line in result.stderr.splitlines()]
    assert (one["id"], one["large"], one["path"]) == ("é", 1 << 70, "\udcff")
    assert [(line["event"], line["n"], line["id"]) for line in many] == [("many", n, "é" * n) for n in range(60)]
    assert {(line["level"], line["worker"]) for line in (one, *many)} == {("info", 3)}


def test_what_libraries_have_to_say_is_an_event_too() -> None:
    script = """
import logging
from normserve_server import logs
logs.configure("info", "json")
log = logging.getLogger("lib.part")
log.warning("a %s", "warning")
log.info("no matter")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("a fault")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    warning, error = [json.loads(line) for line in result.stderr.splitlines()]
    assert (warning["level"], warning["logger"], warning["event"]) == ("warning", "lib.part", "a warning")
    assert (error["level"], error["event"], error["exception"][0]["exc_type"]) == ("error", "a fault", "ZeroDivisionError")
    assert "exception" not in warning


@pytest.mark.parametrize("style", ["json", "console"])
def test_whoever_logs_goes_on_when_nobody_reads(style: str) -> None:
    script = """
import os, sys
import structlog
from normserve_server import logs
logs.configure("info", sys.argv[1])
log = structlog.get_logger("x")
log.info("one", name="\\udcff")
reader, writer = os.pipe()
os.dup2(writer, 2)
os.close(reader)
log.info("lost")
logs.write(logs.as_json({**logs.common("info"), "event": "lost"}) + b"\\n")
print("goes on")
"""
    result = subprocess.run([sys.executable, "-c", script, style], check=False, capture_output=True)
    assert (result.returncode, result.stdout) == (0, b"goes on\n")
    assert b"\\udcff" in result.stderr


@given(st.lists(st.integers(0, 2 * PIPE_BYTES).map(lambda size: b"x" * size + b"\n")))
def test_no_line_is_cut_that_a_pipe_takes_in_one_piece(lines: list[bytes]) -> None:
    written = list(pieces(b"".join(lines)))
    assert b"".join(written) == b"".join(lines)
    assert all(piece.endswith(b"\n") for piece in written)
    assert all(len(piece) <= PIPE_BYTES or piece in lines for piece in written)
