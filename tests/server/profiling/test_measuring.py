"""What is measured of a run, on a device that copies late and on one that needs no copies."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fake_device import FakeAccelerator, FakeLane, reads_on_the_host
from normserve_server.accelerators.host import Host, HostLane
from normserve_server.accelerators.tuning import Tuning
from normserve_server.errors import InvalidRequestError, LoadError
from normserve_server.profiling import bench as benches
from normserve_server.profiling.bench import Bench, Times
from normserve_server.profiling.measuring import measure
from normserve_server.profiling.operators import WARM_UP_RUNS, Operator, added_up
from normserve_server.profiling.subject import Subject
from onnx import TensorProto, helper


@pytest.fixture
def subject(tmp_path, adder):
    (tmp_path / "model.onnx").write_bytes(adder(7))
    return lambda runs=3, **inputs: Subject(tmp_path / "model.onnx", inputs, 2, runs, 1, Tuning())


def test_a_device_apart_is_copied_to_and_from_in_order_and_gives_the_right_numbers(subject):
    device, x = FakeAccelerator(), np.arange(512, dtype=np.float32).reshape(2, 256)
    bench = Bench(subject(x=x), device, ort.SessionOptions())
    for _ in range(2):
        bench.lap()
        (found,) = bench.outputs()
        np.testing.assert_array_equal(found.view(np.float32).reshape(2, 256), x + 7)
    lap = [("copy in", 2048), ("run", None), ("copy out", 2048), ("synchronize",)]
    assert device.ordered("copy in", "run", "copy out", "synchronize") == 2 * lap


def test_the_parts_of_a_run_are_the_devices(subject, monkeypatch):
    """On a clock that stands but while the device is at something: 2 s in, 5 s of computing, 3 s out, and 1 s of the host."""
    time, copies = [0.0], iter([2.0, 3.0])

    def pass_(seconds):
        time[0] += seconds

    device = FakeAccelerator(clock=lambda: time[0])
    device.running, device.copying_in = lambda: pass_(5.0), lambda: pass_(1.0)
    monkeypatch.setattr(FakeLane, "_copy", lambda _lane, _target, _source: pass_(next(copies)))
    monkeypatch.setattr(benches, "now", device.clock)
    assert Bench(subject(), device, ort.SessionOptions()).lap() == Times(2.0, 5.0, 3.0, 1.0)


def test_the_host_is_bound_to_its_own_memory(subject, monkeypatch):
    monkeypatch.delattr(HostLane, "copy_in")
    monkeypatch.delattr(HostLane, "copy_out")
    measured = measure(subject(), Host())
    assert measured.samples == 2
    assert measured.times.run > 0


def test_what_the_session_reads_on_the_host_stays_there(subject, monkeypatch):
    reads_on_the_host(monkeypatch, x=4)
    device, x = FakeAccelerator(), np.arange(512, dtype=np.float32).reshape(2, 256)
    bench = Bench(subject(x=x), device, ort.SessionOptions())
    bench.lap()
    np.testing.assert_array_equal(bench.outputs()[0].view(np.float32).reshape(2, 256), x + 7)
    assert not device.ordered("copy in")


def test_operators_are_told(subject):
    measured = measure(subject(), FakeAccelerator())
    found = {operator.name: operator for operator in measured.operators}
    assert found.keys() == {"MatMul", "Add"}
    assert all(operator.provider == "CPUExecutionProvider" and operator.nodes == 1 for operator in found.values())


def test_operators_are_added_up_without_the_first_runs():
    def event(name, index, microseconds, category="Node"):
        args = {"op_name": name, "provider": "P", "node_index": index}
        return {"cat": category, "name": f"{name}{index}_kernel_time", "dur": microseconds, "args": args}

    runs = [event("Conv", "0", 1000), event("Conv", "1", 1000), event("Add", "2", 1000)] * WARM_UP_RUNS
    runs += [event("Conv", "0", 10), event("Conv", "1", 30), event("Add", "2", 50), event("Add", "2", 9, "Session")]
    runs += [event("Conv", "0", 20), event("Conv", "1", 30), event("Add", "2", 50)]
    assert added_up(runs) == [Operator("Add", "P", 1, pytest.approx(50e-6)), Operator("Conv", "P", 2, pytest.approx(45e-6))]


def test_unknown_inputs_and_extents_are_refused(subject, memory_repository):
    with pytest.raises(InvalidRequestError, match="has no input z; it has x"):
        measure(subject(z=np.zeros(1, np.float32)), FakeAccelerator())
    wide = Subject(memory_repository / "double" / "1" / "model.onnx", {}, 1, 1, 1, Tuning())
    with pytest.raises(InvalidRequestError, match=r"input 'x' has shape .*, give it"):
        measure(wide, FakeAccelerator())


def test_what_onnxruntime_refuses_names_the_file(subject, tmp_path):
    with pytest.raises(LoadError, match=r"model.onnx: onnxruntime: "):
        measure(subject(x=np.zeros((2, 3), np.float32)), FakeAccelerator())
    (tmp_path / "model.onnx").write_bytes(b"none")
    with pytest.raises(LoadError, match=r"model.onnx: onnxruntime: "):
        measure(subject(), FakeAccelerator())


def test_strings_are_left_to_a_server(tmp_path):
    text, out = (helper.make_tensor_value_info(name, TensorProto.STRING, ["batch"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "texts", [text], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "texts.onnx")
    with pytest.raises(InvalidRequestError, match="input 'x' is of strings"):
        measure(Subject(tmp_path / "texts.onnx", {}, 1, 1, 1, Tuning()), Host())
