"""The benchmark that sets our fold beside other tools: it runs, counts, and hides nothing."""

import json
import subprocess
import sys
from pathlib import Path

import folding
import numpy as np
import onnx
import pytest
from normserve_models import graph
from normserve_models.reference import Reference
from normserve_models.testing import Draft
from onnx import numpy_helper

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "folding.py"


def run(*arguments):
    command = [sys.executable, str(BENCHMARK), "--rounds", "1", "--seconds", "0", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The figures of the digits network, by tool."""
    path = tmp_path_factory.mktemp("folding") / "figures.json"
    done = run("--networks", "digits", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "normserve" in done.stdout
    return {outcome["tool"]: outcome for outcome in json.loads(path.read_text())["figures"]["digits"]}


def test_every_tool_has_its_figures(outcomes) -> None:
    assert set(outcomes) >= {"onnxruntime", "normserve", "onnxscript"}
    for outcome in outcomes.values():
        assert outcome["failure"] == ""
        assert (outcome["norms"], outcome["nodes"]) == (0, 20)
        assert 0 < outcome["error"] < 1e-6
        assert 0 < outcome["ratio"] < 100


def test_an_unknown_network() -> None:
    done = run("--networks", "nothing")
    assert done.returncode == 2
    assert "no network nothing; there are digits, " in " ".join(done.stderr.replace("│", " ").split())


@pytest.fixture
def small(tmp_path):
    """A file in which a batch norm stays, because a ReLU is in front of it and nothing behind."""
    draft = Draft()
    convolved = draft.node("Conv", draft.input("batch", 16, 4, 4, name="x"), draft.drawn(16, 16, 1, 1))
    model = draft.output(draft.norm(draft.node("Relu", convolved), 16))
    onnx.save(model, tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


@pytest.fixture
def judged(small):
    """An input of the small file, and what is right."""
    batch = {"x": np.random.default_rng(0).standard_normal((2, 16, 4, 4)).astype(np.float32)}
    return [(batch, Reference(graph.load(small)).run(batch))]


def examined(path, judged, tool="other"):
    outcome = folding.Outcome(tool)
    folding.examine(path, outcome, judged)
    return outcome


def test_a_batch_norm_that_onnxruntime_would_hide_is_counted(small) -> None:
    assert folding.count(small) == (1, 3)


def test_wrong_answers_are_shown(small, judged) -> None:
    model = onnx.load(small)
    shift = numpy_helper.to_array(model.graph.initializer[2]) + np.float32(0.01)
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(shift, model.graph.initializer[2].name))
    wrong = small.with_name("wrong.onnx")
    onnx.save(model, wrong)
    right = examined(small, judged, "onnxruntime")
    outcomes = [right, examined(wrong, judged), examined(small, judged)]
    folding.condemn(outcomes)
    assert [outcome.failure[:13] for outcome in outcomes] == ["", "wrong answers", ""]


def test_an_invalid_file_is_shown_though_it_runs(small, judged) -> None:
    model = onnx.load(small)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7  # there are 16
    onnx.save(model, small)
    outcome = examined(small, judged)
    assert outcome.failure.startswith("invalid: ")
    assert outcome.norms == 1


def test_a_file_that_does_not_run_is_shown(tmp_path, judged) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    outcome = examined(tmp_path / "junk.onnx", judged)
    assert outcome.failure.startswith("does not run: ")
    assert outcome.error is None


def test_a_tool_that_fails_is_shown(tmp_path) -> None:
    source = tmp_path / "source.onnx"
    source.write_bytes(b"no model")
    _, outcome = folding.convert("onnxscript", source, tmp_path)
    assert outcome.failure.startswith("failed (1): ")
    assert "DecodeError" in outcome.failure


def test_our_own_refusal_is_shown(tmp_path) -> None:
    source = tmp_path / "source.onnx"
    source.write_bytes(b"no model")
    _, outcome = folding.convert("normserve", source, tmp_path)
    assert outcome.failure.startswith("failed (2): ")
    assert "source.onnx" in outcome.failure
