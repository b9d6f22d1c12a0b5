"""The process that the server starts."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from normserve_models import prepare, runtime, steps
from normserve_models.report import Report
from normserve_models.testing import Draft


def model(*, norm: bool = True) -> onnx.ModelProto:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 5, 5, name="image"), draft.drawn(8, 3, 3, 3))
    y = draft.norm(y, 8) if norm else y
    return draft.output(draft.node("Conv", draft.node("Relu", y), draft.drawn(8, 8, 1, 1), name="last"))


def run(source, out) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "normserve_models.prepare", str(source), str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_model_is_folded_and_its_report_lies_beside_it(tmp_path) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "cache" / "artifact"
    onnx.save(model(), source)
    done = run(source, out)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in out.iterdir()} == {"model.onnx", "report.json"}
    report = Report.from_json((out / "report.json").read_text())
    assert (report.folded, report.left) == (1, 0)
    assert [error.name for error in report.errors] == ["last.y"]
    assert [(layer.name, layer.value) for layer in report.layers] == [("conv2", "batchnormalization7.y")]
    assert report.run is None
    assert set(report.seconds) == {"load", "fold", "write", "proof"}
    batch = {"image": np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype(np.float32)}
    answers = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, batch)[0]
        for path in (source, out / "model.onnx")
    ]
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-4)


def test_a_run_is_timed_where_that_is_asked_for(tmp_path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(model(), source)
    report = prepare.fold_file(source, tmp_path / "folded.onnx", measure=True)
    assert report.run.runs >= 5
    assert "measure" in report.seconds
    assert Report.from_json(report.to_json()) == report


def test_a_plan_writes_nothing(tmp_path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(model(), source)
    before = source.read_bytes()
    report = prepare.plan(source)
    assert (report.folded, report.errors, report.layers) == (1, [], [])
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert source.read_bytes() == before


def peak_bytes(*arguments) -> int:
    """The most memory that a preparation has had at once, or that the imports alone take."""
    code = """
import re, sys
import onnx.reference
from normserve_models import prepare
assert not sys.argv[1:] or prepare.main(sys.argv[1:]) == 0
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""  # what wait4 tells of a child includes what its parent had
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")
def test_a_large_file_needs_little_more_than_three_times_its_size(tmp_path) -> None:
    """The weights in float64, and a session that lays them out anew, are both twice the file: they must not meet."""
    draft = Draft()
    y = draft.input("batch", 512, 4, 4)
    for _ in range(10):
        y = draft.node("Relu", draft.norm(draft.node("Conv", y, draft.drawn(512, 512, 3, 3), pads=[1] * 4), 512))
    onnx.save(draft.output(y), tmp_path / "model.onnx")
    size = (tmp_path / "model.onnx").stat().st_size
    assert size > 90e6
    assert peak_bytes(tmp_path / "model.onnx", tmp_path / "out") - peak_bytes() < 3.4 * size


def test_what_is_there_already_is_kept(tmp_path) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "artifact"
    onnx.save(model(), source)
    out.mkdir()
    (out / "model.onnx").write_text("theirs")
    assert prepare.main([str(source), str(out)]) == 0
    assert [path.name for path in out.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("external", [False, True])
def test_a_file_without_batch_norms_passes_byte_for_byte(tmp_path, external) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "artifact"
    (tmp_path / "data").mkdir()
    onnx.save(model(norm=False), source, save_as_external_data=external, location="data/weights.bin", size_threshold=0)
    assert prepare.main([str(source), str(out)]) == 0
    assert (out / "model.onnx").read_bytes() == source.read_bytes()
    if external:
        assert (out / "data/weights.bin").read_bytes() == (tmp_path / "data/weights.bin").read_bytes()
    report = json.loads((out / "report.json").read_text())
    assert (report["norms"], report["errors"]) == ([], [])
    assert "nothing to prove" in report["proof"]
    runtime.session(out / "model.onnx")


def test_external_data_is_folded(tmp_path) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "artifact"
    onnx.save(model(), source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert prepare.main([str(source), str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"model.onnx", "model.onnx.data", "report.json"}
    runtime.session(out / "model.onnx")


def unloadable() -> bytes:
    proto = model()
    proto.graph.node[-1].domain = "their.domain"
    proto.opset_import.append(onnx.helper.make_opsetid("their.domain", 1))
    return proto.SerializeToString()


def dangling(name: str) -> bytes:
    proto = model()
    [node] = [node for node in proto.graph.node if node.op_type == name]
    node.input[0] = "nowhere"
    return proto.SerializeToString()


BAD = {
    "empty": (b"", "not an ONNX file"),
    "text": (b"no model", "not an ONNX file"),
    "truncated": (model().SerializeToString()[:-100], "not an ONNX file, or truncated"),
    "unknown domain": (unloadable(), "onnxruntime cannot load it"),
    "a value that nothing gives": (dangling("BatchNormalization"), "nowhere"),
    "a value that nothing gives, elsewhere": (dangling("Relu"), "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, case, capfd) -> None:
    content, says = BAD[case]
    source, out = tmp_path / "model.onnx", tmp_path / "cache" / "artifact"
    source.write_bytes(content)
    assert prepare.main([str(source), str(out)]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(str(source))
    assert says in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_that_only_the_checker_refuses_is_folded(tmp_path) -> None:
    """An output whose rank is not declared: onnxruntime does not mind."""
    source, out = tmp_path / "model.onnx", tmp_path / "artifact"
    proto = model()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    source.write_bytes(proto.SerializeToString())
    assert prepare.main([str(source), str(out)]) == 0
    assert Report.from_json((out / "report.json").read_text()).folded == 1


def test_a_file_with_flipped_bytes_is_prepared_or_refused_in_one_line(tmp_path, capfd) -> None:
    """Whatever is in the file: no trace, nothing half written, and never a fold that passes for wrong."""
    sound = model().SerializeToString()
    generator = np.random.default_rng(0)
    source, out = tmp_path / "model.onnx", tmp_path / "artifact"
    codes = set()
    for _ in range(200):
        content = np.frombuffer(sound, np.uint8).copy()
        content[generator.integers(0, 400, 2)] = generator.integers(0, 256, 2)  # where the names and the structure are
        source.write_bytes(content.tobytes())
        codes.add(prepare.main([str(source), str(out)]))
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == (0 if out.exists() else 1)
        assert {path.name for path in tmp_path.iterdir()} <= {"model.onnx", "artifact"}
        shutil.rmtree(out, ignore_errors=True)
    assert codes == {0, 2}


def test_missing_external_data_in_a_process(tmp_path) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "artifact"
    onnx.save(model(), source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    done = run(source, out)
    assert done.returncode == 2
    assert done.stderr == f"{source}: the external data 'weights.bin' is missing\n"
    assert not out.exists()


def test_a_wrong_fold_is_not_written(tmp_path, capfd, monkeypatch) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "artifact"
    onnx.save(model(), source)

    def wrong(node, affine, constants):
        weight = constants.require(node, 1)
        scaled = weight * affine.along(weight.ndim, axis=0)[0]  # and the shift forgotten
        return steps.Absorbed(steps.Edit(node, {1: scaled}, ir.DataType.FLOAT))

    monkeypatch.setitem(steps.BACKWARD, "Conv", wrong)
    assert prepare.main([str(source), str(out)]) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "output 'last.y': the folded file is off by" in said
    assert "; the first layer that is off is 'conv2', value 'batchnormalization7.y': the folded file is off by" in said
    assert not out.exists()


def wait_for(condition, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_process_that_is_terminated_leaves_nothing(tmp_path) -> None:
    source, cache = tmp_path / "model.onnx", tmp_path / "cache"
    draft = Draft()
    y = draft.input("batch", 16, 256, 256)
    for _ in range(40):  # the proof of it takes many seconds
        y = draft.norm(draft.node("Conv", y, draft.drawn(16, 16, 3, 3), pads=[1, 1, 1, 1]), 16)
    onnx.save(draft.output(y), source)
    child = subprocess.Popen([sys.executable, "-m", "normserve_models.prepare", str(source), str(cache / "artifact")])
    try:
        wait_for(lambda: any(cache.glob(".artifact.*/model.onnx")))
        child.terminate()
        assert child.wait(30) == 143
    finally:
        child.kill()
        child.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_serving_side_pays_for_no_torch() -> None:
    code = "import sys, normserve_models.prepare; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
