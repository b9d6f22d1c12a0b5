"""`make bench-gpu` and `make test-gpu` on a machine without a card: they say so; and all but the card is rehearsed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import gpu
import pytest
from fake_device import FakeAccelerator
from gpu_tools import bare, card, figures, load, networks, outcomes, questions, rival, run, served
from gpu_tools.bare import Rate
from gpu_tools.card import Card, NoCardError
from gpu_tools.figures import Row
from gpu_tools.run import REHEARSAL, Run
from normserve_server import devices
from normserve_server.accelerators.tuning import Tuning

ROOT = Path(__file__).parents[2]
NO_CARD = os.environ | {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def rehearsal(tmp_path):
    return Run(REHEARSAL, tmp_path, lambda: 100.0)


def test_the_questions_are_known_by_their_names():
    assert tuple(questions.QUESTIONS) == gpu.QUESTIONS


def test_a_rehearsal_answers_and_says_what_it_is(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        "--rehearse",
        "--out",
        str(tmp_path),
        "operators",
        "service",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "gpu-rehearsal-without-a-card.json").read_text())
    assert content["rehearsal"]
    assert content["card"]["packages"]["torch"]
    assert [(row["question"], row["what"]) for row in content["figures"]] == [
        ("operators", "layer_norm, 1 MB"),
        ("operators", "group_norm, 1 MB"),
        ("operators", "batch_norm, 1 MB"),
        ("new sizes", "slowest"),
        ("overhead", "one caller, p50"),
        ("served", "1 serving process"),
    ]
    assert all(row["figure"] > 0 and row["ceiling"] > 0 and row["met"] is None for row in content["figures"])
    table = (tmp_path / "gpu-rehearsal-without-a-card.md").read_text()
    assert table.startswith("**Rehearsal on the CPU: these figures mean nothing")
    assert table in done.stdout


@pytest.mark.parametrize("target", ["bench-gpu", "test-gpu"])
def test_without_a_card_it_fails_and_says_so(target):
    command = ["make", "--no-print-directory", target, f"GPU_PYTHON={sys.executable}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=NO_CARD, timeout=120)
    assert done.returncode != 0
    assert "this machine shows no NVIDIA GPU" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


class TestCard:
    @pytest.fixture
    def one_gpu(self, monkeypatch):
        monkeypatch.setattr(devices, "gpu_count", lambda: 1)

    def test_an_onnxruntime_without_cuda_is_named(self, one_gpu, monkeypatch):
        monkeypatch.setattr(devices.ort, "get_available_providers", lambda: [devices.CPU])
        with pytest.raises(NoCardError, match="this onnxruntime has no CUDAExecutionProvider"):
            card.find()

    def test_a_torch_without_cuda_is_named(self, one_gpu, monkeypatch):
        import torch

        monkeypatch.setattr(devices.ort, "get_available_providers", lambda: [devices.CUDA])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(NoCardError, match=r"this torch .* cannot use the GPU"):
            card.find()

    def test_it_is_the_one_that_cuda_shows(self, one_gpu, monkeypatch):
        import pynvml
        import torch

        monkeypatch.setattr(devices.ort, "get_available_providers", lambda: [devices.CUDA])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"abc-{number}"))
        driver = {name: MagicMock(return_value=1) for name in dir(pynvml) if name.startswith("nvml")}
        driver["nvmlDeviceGetMemoryInfo"].return_value = SimpleNamespace(total=1)
        for name, function in driver.items():
            monkeypatch.setattr(pynvml, name, function)
        card.find()
        driver["nvmlDeviceGetHandleByUUID"].assert_called_once_with("GPU-abc-0")

    def test_its_name_is_the_files(self):
        assert Card("NVIDIA H200 80GB (PCIe)").slug == "nvidia-h200-80gb-pcie"


class TestRows:
    @pytest.mark.parametrize(
        ("row", "compared", "met"),
        [
            (Row("q", "w", 9.0, "GB/s", "copy", 10.0, wanted=0.8), 0.9, True),
            (Row("q", "w", 7.0, "GB/s", "copy", 10.0, wanted=0.8), 0.7, False),
            (Row("q", "w", 1.5, "ms", "p50", 1.25, differs=True, wanted=0.5, at_most=True), 0.25, True),
            (Row("q", "w", 8.0, "ms", "median", 2.0, wanted=3.0, at_most=True), 4.0, False),
            (Row("q", "w", 8.0, "ms", "median", None, wanted=3.0), None, None),
            (Row("q", "w", None, "ms", note="not measured"), None, None),
        ],
    )
    def test_compared(self, row, compared, met):
        assert (row.compared, row.met) == (compared, met)

    def test_written(self, tmp_path):
        rows = [Row("q", "w", 1.5, "ms", "p50", 1.25, differs=True, wanted=0.5, at_most=True)]
        path = figures.write(tmp_path / "new", "gpu", Card("A Card", "580.1", "13.0"), rows, rehearsal=False)
        assert path.name == "gpu-a-card.json"
        assert json.loads(path.read_text())["figures"][0]["compared"] == 0.25
        table = path.with_suffix(".md").read_text()
        assert table.startswith("**A Card (driver 580.1, CUDA 13.0, ")
        assert "| q | w | 1.5 ms | p50 | 1.25 ms | 0.25 ms | ≤ 0.5 ms | met |" in table


def test_the_tests_outcomes_are_written(tmp_path):
    passed, failed = (SimpleNamespace(nodeid=f"tests/gpu/t.py::{name}[card]", duration=0.5) for name in "ab")
    path = outcomes.write(tmp_path, Card("A Card", "580.1", "13.0"), outcomes.told({"passed": [passed], "failed": [failed]}))
    content = json.loads(path.read_text())
    assert path.name == "tests-a-card.json"
    assert content["card"]["driver"] == "580.1"
    assert content["tests"]["tests/gpu/t.py::b[card]"] == {"outcome": "failed", "seconds": 0.5}
    assert "| tests/gpu/t.py::a[card] | passed | 0.5 |" in path.with_suffix(".md").read_text()


class TestQuestions:
    def test_one_that_fails_leaves_the_others_their_answers(self, rehearsal, monkeypatch):
        def fail(_run):
            raise RuntimeError("CUDA error: out of memory\nand more")

        monkeypatch.setitem(questions.QUESTIONS, "operators", fail)
        (row,) = questions.answered(rehearsal, "operators")
        assert (row.figure, row.note) == (None, "not measured: RuntimeError: CUDA error: out of memory")

    def test_one_that_there_is_no_time_for_says_so(self, tmp_path):
        (row,) = questions.answered(Run(REHEARSAL, tmp_path, lambda: 1.0), "service")
        assert (row.figure, row.note) == (None, "not measured: there was no time left")

    def test_one_that_takes_all_the_time_is_ended(self, tmp_path, monkeypatch):
        monkeypatch.setitem(questions.QUESTIONS, "service", lambda _run: iter([signal.pause()]))
        with run.limited(0.05) as left:
            (row,) = questions.answered(Run(REHEARSAL, tmp_path, lambda: 100.0), "service")
        assert (row.figure, row.note) == (None, "not measured: OutOfTimeError: 0 s were over")
        assert left() < 0

    def test_the_rival_may_fail(self, rehearsal, monkeypatch):
        rehearsal.best = Rate(8, 100.0, Tuning(prefer_nhwc=True, tf32=True))
        (row,) = questions.in_process(rehearsal_with(rehearsal, monkeypatch, None))
        assert (row.what, row.figure, row.ceiling, row.note) == ("onnxruntime, batch 8, NHWC, TF32", 100.0, None, "too late")
        (row,) = questions.in_process(rehearsal_with(rehearsal, monkeypatch, 80.0))
        assert (row.ceiling, row.compared, row.met) == (80.0, 1.25, True)

    def test_every_tuning_is_tried_with_tf32_too_and_the_server_is_told(self):
        assert sum(tuning.tf32 for tuning in run.TUNINGS) * 2 == len(run.TUNINGS)
        assert served.flags(Tuning(tf32=True)) == ["--tf32", "--double-buffering"]

    def test_where_a_graph_cannot_be_captured_the_best_is_without(self, rehearsal, monkeypatch):
        def best(_file, _sizes, _accelerator, tuning, _seconds):
            if tuning.cuda_graphs:
                raise RuntimeError("operation not permitted when stream is capturing")
            return Rate(4, 50.0 if tuning.prefer_nhwc else 60.0, tuning)

        monkeypatch.setattr(run.bare, "best", best)
        assert rehearsal.best == Rate(4, 60.0, Tuning())

    def test_the_overhead_is_over_a_run_as_the_best_has_it(self, tmp_path, adder):
        (tmp_path / "m.onnx").write_bytes(adder(1))
        device = FakeAccelerator()
        assert bare.median_lap(tmp_path / "m.onnx", device, Tuning(cuda_graphs=True), 3) > 0
        assert set(device.ordered("run")) == {("run", 1)}

    def test_new_sizes_are_held_against_sizes_that_are_new_no_more(self, monkeypatch):
        known, network = set(), networks.small()

        def seconds(_client, _network, size):
            new = size not in known
            known.add(size)
            return 9.0 if new else 1.0

        monkeypatch.setattr(served, "_seconds", seconds)
        monkeypatch.setattr(served, "Client", lambda _: MagicMock())
        assert served.new_sizes("nowhere", network, 4) == (9.0, 1.0)


def rehearsal_with(rehearsal, monkeypatch, answer):
    """The run, in which the rival answers so, or not at all."""

    def measured(*_arguments, **_options):
        if answer is None:
            raise rival.RivalError("too late")
        return answer

    monkeypatch.setattr(rival, "samples_per_second", measured)
    return rehearsal


class TestRival:
    def test_measured(self):
        assert rival.measure("small", 2, "cpu", "eager", 0.01) > 0

    def test_a_mode_that_torch_does_not_know(self):
        with pytest.raises(rival.RivalError, match="torch: "):
            rival.samples_per_second("absent", 2, "cpu", "eager", seconds=0.01, limit=60)

    def test_out_of_time(self):
        with pytest.raises(rival.RivalError, match="was not done after 0 s"):
            rival.samples_per_second("small", 2, "cpu", "eager", seconds=60, limit=0)


def test_a_load_that_nobody_answers_in_time(tmp_path, digits_server):
    body = tmp_path / "request"
    body.write_bytes(b"")
    with pytest.raises(load.LoadError, match="no call was answered within 1e-06 s"):
        load.run(load.Load(digits_server.grpc_address, "/inference.GRPCInferenceService/ServerLive", body, 1, 1), 1e-6)


def test_a_load_that_is_refused_says_how(tmp_path, digits_server):
    body = tmp_path / "request"
    body.write_bytes(b"")
    method = (
        "/inference.GRPCInferenceService/Divine"  # a method that is not there, which no metric of the suite's server counts
    )
    with pytest.raises(load.LoadError, match="UNIMPLEMENTED"):
        load.run(load.Load(digits_server.grpc_address, method, body, 1, 1), 0.1)
