"""Each benchmark of the service runs from end to end, on tiny times; how fast anything was is nobody's business here."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import serving
from serving_tools import subjects
from serving_tools.errors import NoSuchFlagError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
INSTALLED = BENCHMARKS / "out" / "rivals"
needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed (Debian: nghttp2-client)")
QUICK = ("--seconds", "0.5", "--rounds", "1", "--markdown")


def run(script, *arguments):
    return subprocess.run([sys.executable, str(BENCHMARKS / script), *arguments], check=False, capture_output=True, text=True)


def figures(tmp_path, script, *arguments):
    """The JSON of a benchmark, and what it printed."""
    file = tmp_path / "figures.json"
    done = run(script, *arguments, *QUICK, "--json", str(file))
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    assert content["machine"]["cores"] >= 1
    return content["figures"], done


@needs_h2load
def test_serving(tmp_path) -> None:
    cells, done = figures(tmp_path, "serving.py", "small", "--callers", "16")
    assert list(cells["small"]) == ["16"]
    one = cells["small"]["16"]
    assert {"echo", "bare handler", "normserve", "in-process, batch 1"} < set(one)
    assert all(figure["rate"] > 0 and figure["p99_ms"] >= figure["p50_ms"] > 0 for turns in one.values() for figure in turns)
    assert one["echo"][0]["cpu_us"] > 0
    assert "| small | 16 | normserve / echo, samples/s |" in done.stdout
    assert "≥ 0.8" in done.stdout


def test_the_server_knows_the_flags_of_all_questions() -> None:
    subjects.check_flags(
        [flag for question in serving.QUESTIONS.values() for flags in question.servers.values() for flag in flags]
    )
    with pytest.raises(NoSuchFlagError, match="no flag --telepathy"):
        subjects.check_flags(["--telepathy"])


@needs_h2load
def test_batching(tmp_path) -> None:
    rounds, done = figures(tmp_path, "batching.py")
    assert set(rounds) == {"batching on", "batching on, again", "batching off"}
    assert "| batching on / batching off |" in done.stdout


@needs_h2load
def test_swap(tmp_path) -> None:
    seen, done = figures(tmp_path, "swap.py", "--load", "0.2")
    (swap,) = seen["normserve"]
    assert swap["seconds"] > 0
    assert swap["calls"] > 0
    assert 0 < swap["during_ms"] <= swap["worst_ms"]
    assert "| normserve |" in done.stdout


def test_shared_memory(tmp_path) -> None:
    rounds, _ = figures(tmp_path, "shared_memory.py", "--megabytes", "1")
    assert {"two copies", "echo", "normserve.Client, socket", "normserve.Client, shared memory"} <= set(rounds)


@needs_h2load
def test_normalization(tmp_path) -> None:
    cells, done = figures(tmp_path, "normalization.py", "in-process", "grpc", "--operator", "layer_norm")
    assert set(cells["in-process"]["layer_norm"]) == {"copy", "torch", "normserve"}
    assert all(turns["normserve"][0]["rate"] > 0 for turns in cells["grpc"].values())
    assert "| normserve / torch |" in done.stdout
    assert "| layer_norm, 6.42 MB |" in done.stdout


@needs_h2load
def test_normalizers(tmp_path) -> None:
    cells, done = figures(tmp_path, "normalization.py", "normalizers")
    turns = cells["normalizers"]["64 callers"]
    assert set(turns) == {"echo", "observe", "apply", "evaluate", "commit"}
    assert all(each[0]["rate"] > 0 for each in turns.values())
    assert "| observe / echo |" in done.stdout
    assert "| 64 | observe |" in done.stdout


@needs_h2load
def test_many_models(tmp_path) -> None:
    starts, done = figures(tmp_path, "many_models.py", "--models", "1,2")
    assert list(starts) == ["0", "1", "2"]
    assert all(start["start_s"] > 0 and start["memory_mib"] > 20 for rounds in starts.values() for start in rounds)
    assert starts["2"][0]["p50_ms"] > 0
    assert "2 models / 1" in done.stdout


@needs_h2load
@pytest.mark.parametrize("rival", ["mlserver", "kserve"])
def test_rivals(tmp_path, rival) -> None:
    if not (INSTALLED / rival / "packages.json").exists():
        pytest.skip(f"{rival} is not installed; `make bench-rivals` does that")
    cells, _ = figures(tmp_path, "rivals.py", rival, "--callers", "4")
    assert len(cells["4"]) == 6


@pytest.mark.parametrize(
    "script", ["serving", "swap", "shared_memory", "many_models", "normalization", "normalizers", "rivals"]
)
def test_help_says_how_it_is_run(script, monkeypatch, capsys) -> None:
    said = refused(script, ["--help"], monkeypatch, capsys).out
    for text in (f"python benchmarks/{script}.py", "--seconds", "--rounds", "--json", "--markdown"):
        assert text in said


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("serving", ["smal"], "no question smal; there are resnet50"),
        ("serving", ["--rounds", "0"], "wanted 1 or more, got 0"),
        ("normalization", ["torch"], "no question torch; there are in-process, grpc, normalizers"),
        ("normalizers", ["--callers", "4,0"], "wanted 1 or more, got 0"),
        ("rivals", ["triton"], "no rival triton; there are mlserver, kserve"),
        ("many_models", ["--models", "3"], "wanted at least two different numbers"),
        ("swap", ["--rounds", "8"], "wanted at most 7, got 8"),
        ("shared_memory", ["--megabytes", "0"], "wanted a number above 0, got 0"),
    ],
)
def test_what_cannot_be_asked_is_said(script, arguments, words, monkeypatch, capsys) -> None:
    assert words in refused(script, arguments, monkeypatch, capsys).err


def refused(script, arguments, monkeypatch, capsys):
    """What a script prints that ends at its command line; in this process, since the imports take seconds."""
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit):
        importlib.import_module(script).parse()
    return capsys.readouterr()
