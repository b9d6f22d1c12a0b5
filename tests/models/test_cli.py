"""`normserve fold` and `normserve export`, run as the user runs them."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from normserve.cli import app
from normserve.cli.console import InputError
from normserve_models import prepare
from normserve_models.report import Report
from normserve_models.testing import Draft
from typer.testing import CliRunner


@pytest.fixture
def source(tmp_path):
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 5, 5, name="image"), draft.drawn(4, 3, 3, 3), name="conv")
    y = draft.node("Relu", draft.norm(y, 4, name="goes"), name="between")
    path = tmp_path / "in.onnx"
    onnx.save(draft.output(draft.norm(y, 4, name="stays")), path)
    return path


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "normserve.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200", **environment}
    )


def test_fold_tells_what_became_of_each(source, tmp_path) -> None:
    target, report = tmp_path / "out.onnx", tmp_path / "report.json"
    done = run("fold", source, target, "--report", report)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("│")}
    assert "conv" in rows["goes"]
    assert "blocked: Relu 'between' comes before it" in rows["stays"]
    assert "1 of 2 batch norms folded" in done.stdout
    assert [node.op_type for node in onnx.load(target).graph.node] == ["Conv", "Relu", "BatchNormalization"]
    assert Report.from_json(report.read_text()).folded == 1


def test_fold_in_place(source) -> None:
    assert run("fold", source, source).returncode == 0
    assert [path.name for path in source.parent.iterdir()] == ["in.onnx"]
    assert len(onnx.load(source).graph.node) == 3


def test_fold_proves_on_samples_too(source, tmp_path) -> None:
    np.savez(tmp_path / "samples.npz", image=np.ones((20, 3, 5, 5), np.float32))
    done = run("fold", source, tmp_path / "out.onnx", "--samples", tmp_path / "samples.npz")
    assert done.returncode == 0
    assert "and on the samples" in done.stdout


def fails(code: int, says: str, *arguments) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("normserve: ")
    assert says in done.stderr


def test_a_proof_that_fails_is_exit_code_1_and_writes_nothing(source, tmp_path) -> None:
    report = tmp_path / "report.json"
    fails(1, "output 'stays.y': the folded", "fold", source, tmp_path / "out.onnx", "--tolerance", "1e-30", "--report", report)
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_bad_input_is_exit_code_2_and_writes_nothing(source, tmp_path) -> None:
    source.write_bytes(source.read_bytes()[:-50])
    fails(2, "in.onnx: not an ONNX file, or truncated", "fold", source, tmp_path / "out.onnx")
    fails(2, "nowhere.onnx: No such file", "fold", tmp_path / "nowhere.onnx", tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_bad_samples_and_places_are_exit_code_2(source, tmp_path) -> None:
    fails(2, "samples.npz: not a readable", "fold", source, tmp_path / "out.onnx", "--samples", tmp_path / "samples.npz")
    np.savez(tmp_path / "samples.npz", image=np.ones((1, 3, 5, 6), np.float32))
    fails(2, "'image' have the shape", "fold", source, tmp_path / "out.onnx", "--samples", tmp_path / "samples.npz")
    fails(2, "nowhere", "fold", source, tmp_path / "nowhere" / "out.onnx")


def test_a_bar_shows_where_it_takes_long(source, tmp_path, monkeypatch) -> None:
    from normserve.cli import fold

    monkeypatch.setattr(fold, "PATIENCE_SECONDS", -1.0)
    shown = CliRunner().invoke(app, ["fold", str(source), str(tmp_path / "out.onnx")], env={"FORCE_COLOR": "1"})
    assert shown.exit_code == 0
    assert "proving" in shown.stderr
    assert "proving" not in shown.stdout


def test_missing_packages_are_named(source, tmp_path, monkeypatch) -> None:
    """The light client alone: one line, and what to install."""
    for name in [name for name in sys.modules if name.startswith("normserve_models")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    outcome = CliRunner().invoke(app, ["fold", str(source), str(tmp_path / "out.onnx")])
    assert isinstance(outcome.exception, InputError)
    assert "pip install 'normserve[models]'" in str(outcome.exception)


NETS = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()

def training():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

def broken():
    raise RuntimeError("no weights")

number = int
"""


def test_export_publishes_the_next_version(tmp_path, monkeypatch) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "net" / "1").mkdir(parents=True)
    done = run("export", "nets:net", "--input", "x=FP32[-1,3]", "--output", "y", "--name", "net", "--repository", "models")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "exported models/net/2/model.onnx\n"
    path = tmp_path / "models" / "net" / "2" / "model.onnx"
    model = onnx.load(path)
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 1
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("x", "y")
    prepare.prepare(path, tmp_path / "artifact")


@pytest.mark.parametrize(
    ("factory", "given", "says"),
    [
        ("nets:training", "x=FP32[-1,3]", "batch norm in training mode: '1'"),
        ("nets:broken", "x=FP32[-1,3]", "nets:broken: RuntimeError: no weights"),
        ("nets:number", "x=FP32[-1,3]", "nets:number gives int, wanted a torch.nn.Module"),
        ("nets:nothing", "x=FP32[-1,3]", "nets:nothing: AttributeError"),
        ("nowhere:net", "x=FP32[-1,3]", "nowhere:net: ModuleNotFoundError"),
        ("nets", "x=FP32[-1,3]", "wanted PACKAGE.MODULE:FACTORY, got 'nets'"),
        ("nets:net", "x=FP32", "wanted NAME=DTYPE[DIMS]"),
        ("nets:net", "x=FP31[-1,3]", "unknown datatype 'FP31'"),
        ("nets:net", "x=FP32[2,3]", "wanted dims of the form"),
    ],
)
def test_export_says_what_is_wrong(tmp_path, monkeypatch, factory, given, says) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = ["export", factory, "--input", given, "--name", "net", "--repository", "models"]
    outcome = CliRunner().invoke(app, arguments)
    assert isinstance(outcome.exception, InputError)
    assert says in str(outcome.exception)
    assert not (tmp_path / "models" / "net").exists()
    monkeypatch.delitem(sys.modules, "nets", raising=False)


def test_export_refuses_a_name_that_is_a_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    fails(2, "--name", "export", "nets:net", "--input", "x=FP32[-1,3]", "--name", "../net", "--repository", "models")


@pytest.mark.parametrize("command", ["fold", "export"])
def test_help_has_examples(command) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"normserve {command} " in done.stdout
