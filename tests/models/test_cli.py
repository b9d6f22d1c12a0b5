"""`normserve fold` and `normserve export`, run as the user runs them."""

import io
import os
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from normserve.cli import app, fold_report
from normserve.cli.console import InputError
from normserve_models import prepare
from normserve_models.explain import Described
from normserve_models.report import Cost, Norm, Report
from normserve_models.testing import Draft
from rich.console import Console
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


def test_fold_tells_the_errors_and_what_a_run_costs(source, tmp_path) -> None:
    report = tmp_path / "report.json"
    done = run("fold", source, tmp_path / "out.onnx", "--report", report)
    assert done.returncode == 0
    [layer] = [line for line in done.stdout.splitlines() if line.startswith("│ conv ")]
    told = Report.from_json(report.read_text())
    assert [cell.strip() for cell in layer.strip("│").split("│")][1:] == [
        f"{figure:.2e}" for figure in (told.layers[0].folded, told.layers[0].unfolded)
    ]
    assert f"{told.run.ratio:.2f} of it (median of {told.run.runs} runs, {told.run.threads} thread" in done.stdout


def test_a_run_need_not_be_timed(source, tmp_path) -> None:
    report = tmp_path / "report.json"
    done = run("fold", source, tmp_path / "out.onnx", "--no-measure", "--report", report)
    assert done.returncode == 0
    assert "One sample takes" not in done.stdout
    assert Report.from_json(report.read_text()).run is None


def test_the_table_at_80_columns_holds_names_costs_and_reasons(monkeypatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(fold_report, "out", Console(file=written, width=80))
    norms = [
        Norm("node_1", "layer1.0.bn.weight", folded=True, into=["conv1"], cost=Cost(-1, -1536, -6_422_528)),
        Norm("bn2", "c7", folded=True, into=["conv2", "conv3"], cost=Cost(2, 3_211_264, None)),
        Norm("bn3", "c8", folded=False, reason="blocked", detail="Relu 'between' comes before it"),
    ]
    fold_report.show(Report("", norms, proof="Judged"))
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in written.getvalue().splitlines() if "│" in line]
    assert cells[0] == ["layer1.0.bn", "conv1", "-1", "-1.54 kB", "-6.42 MB"]
    assert cells[1] == ["bn2", "conv2, conv3", "+2", "+3.21 MB", "not known"]
    assert cells[2][:2] == ["bn3", "blocked: Relu 'between'"]
    assert cells[-1] == ["all together", "", "+1", "+3.21 MB", "not known"]


def explained(done: subprocess.CompletedProcess) -> dict[str, str]:
    """What was said, by its label."""
    assert (done.returncode, done.stderr) == (0, "")
    return {line[:12].strip(): line[12:].strip() for line in done.stdout.splitlines() if line[:12].strip()}


def test_explain_tells_the_story_of_one_and_writes_nothing(source) -> None:
    told = explained(run("fold", source, "--explain", "goes"))
    assert (told["batch norm"], told["output"], told["channels"]) == ("goes", "goes.y", "4, epsilon 1e-05")
    assert re.fullmatch(r"0\.\d+ to [12]\.\d+ +\(c\d+\)", told["variance"])
    assert told["folded into"] == "conv"
    assert "error" not in told
    assert [path.name for path in source.parent.iterdir()] == ["in.onnx"]


def test_explain_tells_why_one_stays(source) -> None:
    done = run("fold", source, "--explain", "stays.y")
    assert explained(done)["stays"] == "blocked: the operator beside it lets no affine map through and cannot take one in"
    assert "Relu 'between' comes before it" in done.stdout


def test_explain_tells_the_error_where_something_is_written(source, tmp_path) -> None:
    told = explained(run("fold", source, "--explain", "goes", tmp_path / "out.onnx"))
    assert re.fullmatch(r"\S+e-\d+ folded, \S+e-\d+ unfolded, in conv", told["error"])
    assert (tmp_path / "out.onnx").exists()


def test_explain_tells_the_way_and_the_cost(monkeypatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(fold_report, "out", Console(file=written, width=200))
    way = ["Dropout 'drop' lets it through", "Conv 'conv' takes it in"]
    norm = Norm("bn", "bn.weight", folded=True, into=["conv"], way=way, cost=Cost(-2, -64, -2048))
    fold_report.tell(Described(0, "bn", "bn.y", None, 1e-5, []), Report("", [norm]))
    lines = [" ".join(line.split()) for line in written.getvalue().splitlines()]
    assert "its way 1. Dropout 'drop' lets it through" in lines
    assert "2. Conv 'conv' takes it in" in lines
    assert "cost nodes -2, weights -64 B, activations -2.05 kB a sample" in lines


def test_explain_of_an_unknown_name_is_exit_code_2_and_writes_nothing(source, tmp_path) -> None:
    fails(2, "no batch norm is called 'stay', did you mean 'stays'", "fold", source, "--explain", "stay")
    fails(2, "no batch norm is called 'stay'", "fold", source, tmp_path / "out.onnx", "--explain", "stay")
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_without_a_target_only_explain_works(source) -> None:
    fails(2, "OUT.onnx is missing: wanted normserve fold IN.onnx OUT.onnx", "fold", source)
    fails(2, "--tolerance needs OUT.onnx", "fold", source, "--explain", "goes", "--tolerance", "1")
    fails(2, "nowhere.onnx: No such file", "fold", source.with_name("nowhere.onnx"), "--explain", "goes")


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


def test_a_proof_that_fails_names_the_layer_and_leaves_what_was_there(source, tmp_path) -> None:
    target = tmp_path / "out.onnx"
    target.write_text("theirs")
    fails(1, "; the first layer that is off is 'conv', value 'goes.y': ", "fold", source, target, "--tolerance", "1e-30")
    assert target.read_text() == "theirs"


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
