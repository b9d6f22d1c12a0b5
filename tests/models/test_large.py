"""Models of more than 2 GiB, which no protobuf message holds: `make test-large`, or `pytest -m large`."""

import json
import os
import shutil
import subprocess
import sys

import onnx
import pytest
from normserve_models.testing import Draft
from onnx import TensorProto, helper

ROWS, COLUMNS = 640 * 1024, 1024  # of float32: 2.5 GiB
SIZE = ROWS * COLUMNS * 4

# It says what it took, so that the memory is that of a process of its own.
FOLD = """
import json, sys, time
from pathlib import Path
from normserve_models import graph
from normserve_models.fold import fold
def peak():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])
source, target = map(Path, sys.argv[1:])
started, before = time.monotonic(), peak()
model = graph.load(source)
norms = fold(model)
graph.save(model, target, target.name + ".data")
print(json.dumps({
    "folded": [norm.folded for norm in norms],
    "complaint": graph.complaint(target),
    "seconds": time.monotonic() - started,
    "more_mib": (peak() - before) / 1024,
}))
"""


@pytest.fixture
def folder(tmp_path):
    """A folder that does not stay, as pytest's do."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def embedding(folder):
    """A table that no fold touches, of zeros that take no room on the disk, then Gemm and a batch norm."""
    draft = Draft()
    tokens = draft.input("batch", name="tokens", dtype="int64")
    y = draft.node(
        "Gemm", draft.node("Gather", "table", tokens, axis=0), draft.drawn(COLUMNS, 64), draft.drawn(64), name="gemm"
    )
    outputs = [helper.make_tensor_value_info(draft.norm(y, 64), TensorProto.FLOAT, ["batch", 64])]
    table = onnx.TensorProto(name="table", dims=[ROWS, COLUMNS], data_type=TensorProto.FLOAT)
    table.data_location = onnx.TensorProto.EXTERNAL
    table.external_data.add(key="location", value="table.bin")
    graph = helper.make_graph(draft.nodes, "graph", draft.inputs, outputs, [*draft.initializers, table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", draft.opset)], ir_version=10)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with (folder / "table.bin").open("wb") as file:
        file.truncate(SIZE)
    return path


@pytest.mark.large
def test_what_is_not_touched_is_not_held_in_memory(folder, capsys) -> None:
    source, target = embedding(folder), folder / "folded.onnx"
    done = subprocess.run([sys.executable, "-c", FOLD, source, target], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert (told["folded"], told["complaint"]) == ([True], None)
    assert target.stat().st_size < 1 << 20
    assert (folder / "folded.onnx.data").stat().st_size >= SIZE
    with capsys.disabled():
        print(f"\n{SIZE / 1e9:.1f} GB folded in {told['seconds']:.1f} s, with {told['more_mib']:.0f} MiB more memory")
    assert told["more_mib"] < 64


@pytest.mark.large
def test_it_is_proved(folder) -> None:
    source, out = embedding(folder), folder / "artifact"
    command = [sys.executable, "-m", "normserve_models.prepare", source, out]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    report = json.loads((out / "report.json").read_text())
    assert report["folded"] == 1
    assert report["errors"][0]["folded"] <= 1e-6
