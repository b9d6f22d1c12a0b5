"""Captured runs, as far as a fake can tell: which runs are captured and replayed, and what becomes of those that cannot be."""

import numpy as np
import pytest
from fake_device import FakeAccelerator
from normserve_server.accelerators.interface import DeviceBrokenError
from normserve_server.accelerators.tuning import Tuning
from normserve_server.errors import LoadError
from normserve_server.session import OnnxSession
from small_networks import WEIGHT, linear, positives

GRAPHS = Tuning(cuda_graphs=True)


def load(path, device, told):
    options = {"threads": 1, "max_batch_size": None, "default_max_batch_size": 8}
    return OnnxSession(path, device, tuning=GRAPHS, fallen_back=told.append, **options)


def graphs(device, session, size):
    """The graphs of the runs that a batch takes."""
    device.journal.clear()
    x = np.full((size, 3), size, np.float32)
    y, _ = session.run({"x": x})
    np.testing.assert_array_equal(y, x @ WEIGHT)
    return [graph for (graph,) in [details for _, what, *details in device.journal if what == "run"]]


def test_sizes_are_captured_before_a_thread_s_first_run_and_replayed_by_it(tmp_path) -> None:
    device, told = FakeAccelerator(), []
    session = load(linear(tmp_path / "m.onnx"), device, told)
    session.captured_sizes = (1, 4)
    first = graphs(device, session, 4)
    assert first == [1, 1, 1, 2, 2, 2, 1]  # the largest first, so that memory stays where it is
    assert graphs(device, session, 1) == [2]
    assert graphs(device, session, 4) == [1]
    assert not told


def test_on_a_device_one_is_captured_at_a_time(tmp_path) -> None:
    device, seen = FakeAccelerator(), []
    session = load(linear(tmp_path / "m.onnx"), device, [])
    session.captured_sizes = (2,)
    device.running = lambda: seen.append(device.capturing.locked())
    graphs(device, session, 2)
    assert seen == [True, True, True, False]


def test_a_size_that_was_not_captured_runs_as_ever_and_memory_that_grows_ends_the_graphs(tmp_path) -> None:
    device = FakeAccelerator()
    session = load(linear(tmp_path / "m.onnx"), device, [])
    session.captured_sizes = (4,)
    graphs(device, session, 4)
    assert graphs(device, session, 3) == [None]
    assert graphs(device, session, 4) == [1]
    assert graphs(device, session, 8) == [None]
    assert graphs(device, session, 4) == [None]  # its graph reads memory that is gone


def test_a_capture_that_fails_is_counted_once_and_the_runs_go_on(tmp_path) -> None:
    device, told = FakeAccelerator(), []
    device.fails_capture = True
    session = load(linear(tmp_path / "m.onnx"), device, told)
    session.captured_sizes = (1, 2, 4)
    assert graphs(device, session, 2)[-1] is None
    assert told == ["cuda_graphs"]


def test_a_file_that_cannot_be_captured_at_all_is_opened_without(tmp_path, monkeypatch) -> None:
    device, told, tried = FakeAccelerator(), [], []

    def providers(tuning, lane):
        tried.append(tuning.cuda_graphs)
        return ["NoSuchProvider"] if tuning.cuda_graphs else ["CPUExecutionProvider"]

    monkeypatch.setattr(device, "providers", providers)
    session = load(linear(tmp_path / "m.onnx"), device, told)
    assert (tried, told) == ([True, False], ["cuda_graphs"])
    assert graphs(device, session, 2) == [None]


def test_a_file_that_is_no_model_is_refused_with_graphs_too(tmp_path) -> None:
    told = []
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(LoadError, match="onnxruntime does not load it"):
        load(path, FakeAccelerator(), told)
    assert not told


def test_outputs_of_unknown_shape_are_not_captured(tmp_path) -> None:
    device = FakeAccelerator()
    session = load(positives(tmp_path / "m.onnx"), device, [])
    session.captured_sizes = (2,)
    session.run({"x": np.ones(2, np.float32)})
    assert device.ordered("run") == [("run", None)]


def test_a_device_that_breaks_while_it_captures_is_broken(tmp_path) -> None:
    device = FakeAccelerator()
    session = load(linear(tmp_path / "m.onnx"), device, [])
    session.captured_sizes = (2,)
    device.broken_by = "an illegal memory access was encountered"
    with pytest.raises(DeviceBrokenError, match="cuda:0: an illegal memory access"):
        session.run({"x": np.ones((2, 3), np.float32)})
