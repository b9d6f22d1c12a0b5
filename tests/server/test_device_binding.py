"""Sessions on a device with memory of its own: a fake, whose copies happen so late that numbers tell of a missing wait."""

import threading

import ml_dtypes
import numpy as np
import pytest
from fake_device import FakeAccelerator, reads_on_the_host
from normserve_server.accelerators.interface import DeviceMemoryError
from normserve_server.errors import InternalError
from normserve_server.session import OnnxSession
from onnx import TensorProto, helper
from small_networks import WEIGHT, linear, positives, save, table, tensor


@pytest.fixture
def device() -> FakeAccelerator:
    return FakeAccelerator()


def load(path, device, **options):
    return OnnxSession(path, device, threads=1, max_batch_size=None, default_max_batch_size=8, **options)


def batch(size, begin=0):
    return np.arange(begin, begin + 3 * size, dtype=np.float32).reshape(size, 3)


def check(session, x):
    y, z = session.run({"x": x})
    np.testing.assert_array_equal(y, x @ WEIGHT)
    np.testing.assert_array_equal(z, -x)


def test_batches_of_any_size_one_after_another(tmp_path, device) -> None:
    session = load(linear(tmp_path / "m.onnx"), device)
    for size in (2, 5, 1, 5, 3):
        check(session, batch(size, begin=size))


def test_what_was_answered_stays_when_the_next_batch_runs(tmp_path, device) -> None:
    session = load(linear(tmp_path / "m.onnx"), device)
    x = batch(4)
    first = session.run({"x": x})
    kept, x[...] = [array.copy() for array in first], 9
    session.run({"x": x})
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_the_order_of_a_run(tmp_path, device) -> None:
    session = load(linear(tmp_path / "m.onnx"), device)
    session.run({"x": batch(2)})
    compute, inward, outward = 0, 1, 2
    assert [entry for entry in device.journal if entry[1] != "providers"] == [
        (inward, "copy in", 24),
        (compute, "wait", inward),
        (compute, "run", None),
        (outward, "wait", compute),
        (outward, "copy out", 32),
        (outward, "copy out", 24),
        (outward, "synchronize"),
    ]


def test_an_output_of_unknown_shape_comes_from_where_onnxruntime_put_it(tmp_path, device) -> None:
    session = load(positives(tmp_path / "m.onnx"), device)
    for numbers in ([1, -1, 2], [-1], [3, 4, 5, 6]):
        (y,) = session.run({"x": np.array(numbers, np.float32)})
        assert y.tolist() == [number for number in numbers if number > 0]


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.BFLOAT16, ml_dtypes.bfloat16), (TensorProto.BOOL, np.bool_)])
def test_datatypes_that_numpy_or_onnxruntime_lack(tmp_path, device, kind, dtype) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [tensor("x", ["batch", 2], kind)], [tensor("y", ["batch", 2], kind)])
    x = np.array([[1, 0]], dtype)
    (y,) = load(path, device).run({"x": x})
    assert (y.dtype, y.tolist()) == (x.dtype, x.tolist())


@pytest.mark.parametrize("names", [{"n": 8}, {"x": 4, "n": 8}])
def test_what_the_session_reads_on_the_host_stays_there(tmp_path, device, monkeypatch, names) -> None:
    """onnxruntime copies it while it binds it: from the device that would be before it has come there."""
    reads_on_the_host(monkeypatch, **names)
    tile, ends = helper.make_node("Tile", ["x", "n"], ["y"]), [tensor("x", ["w"]), tensor("n", [1], TensorProto.INT64)]
    session = load(save(tmp_path / "m.onnx", [tile], ends, [tensor("y", ["v"])]), device)
    session.captured_sizes = (2,)  # a replay would read the capture's
    for count in (2, 3):
        x = np.full(2, count, np.float32)
        assert session.run({"x": x, "n": np.array([9, count])[1:]})[0].tolist() == [count] * 2 * count
    assert device.ordered("copy in") == ([] if "x" in names else [("copy in", 8)] * 2)
    assert {graph for _, graph in device.ordered("run")} == {None}


def test_bytes_stay_on_the_host(tmp_path, device) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    ends = [tensor(name, ["batch", 1], TensorProto.STRING) for name in "xy"]
    session = load(save(tmp_path / "m.onnx", [node], ends[:1], ends[1:]), device)
    assert session.run({"x": np.array([["é".encode()]], object)})[0].tolist() == [["é"]]


def test_no_elements_are_a_batch_too(tmp_path, device) -> None:
    y, z = load(linear(tmp_path / "m.onnx"), device).run({"x": np.zeros((0, 3), np.float32)})
    assert (y.shape, z.shape) == ((0, 4), (0, 3))


def test_inputs_that_are_not_contiguous(tmp_path, device) -> None:
    check(load(linear(tmp_path / "m.onnx"), device), batch(4)[::2])


def test_a_run_that_fails_is_the_model_s_error_and_leaves_nothing_under_way(tmp_path, device) -> None:
    session = load(table(tmp_path / "m.onnx"), device)
    x = np.array([0, 7])
    with pytest.raises(InternalError, match=r"onnxruntime: .*indices element out of data bounds"):
        session.run({"x": x})
    assert device.journal[-3:] == [(lane, "synchronize") for lane in (1, 0, 2)]
    assert session.run({"x": np.array([1, 0])})[0].tolist() == [2, 1]


def test_a_run_whose_outputs_find_no_room_leaves_nothing_under_way(tmp_path, device, monkeypatch) -> None:
    """It computes and copies still: what it is bound to is the next run's, and where it copies to somebody else's."""
    session, given, rooms = load(linear(tmp_path / "m.onnx"), device), [], iter([True, False])

    def staging(nbytes):
        if not next(rooms):
            raise DeviceMemoryError("no room")
        given.append(np.zeros(nbytes, np.uint8))
        return given[-1]

    x = batch(2)
    with monkeypatch.context() as scarce:
        scarce.setattr(device, "staging", staging)
        with pytest.raises(DeviceMemoryError):
            session.run({"x": x})
    np.testing.assert_array_equal(given[0].view(np.float32).reshape(2, 4), x @ WEIGHT)  # not at some time later
    check(session, batch(3))


def test_memory_that_is_not_there_is_an_error_with_the_numbers(tmp_path) -> None:
    session = load(linear(tmp_path / "m.onnx"), FakeAccelerator(total_bytes=100))
    with pytest.raises(DeviceMemoryError, match="cuda:0: wanted 128 bytes of memory, 4 of 100 are free"):
        session.run({"x": batch(8)})


def test_one_batch_is_copied_in_while_another_computes(tmp_path) -> None:
    """Two threads: the second orders its copy and waits for its turn; the first, which is computing, then goes on."""
    computing, ordered, copied, both = (threading.Event() for _ in range(4))
    device = FakeAccelerator()
    session = load(linear(tmp_path / "m.onnx"), device)
    device.running = lambda: (both if computing.is_set() else computing).set() or ordered.wait(10)
    results = {}
    threads = [
        threading.Thread(target=lambda name=name: results.setdefault(name, session.run({"x": batch(2, begin=name)})))
        for name in (1, 2)
    ]
    threads[0].start()
    assert computing.wait(10)
    device.copying_in = copied.set
    threads[1].start()
    assert copied.wait(10)  # although the first is still at it
    assert not both.wait(0.2)
    ordered.set()
    for thread in threads:
        thread.join(10)
    for name, (y, _) in results.items():
        np.testing.assert_array_equal(y, batch(2, begin=name) @ WEIGHT)
    assert len(results) == 2


def test_threads_that_share_a_session_do_not_mix_their_batches(tmp_path, device) -> None:
    session = load(linear(tmp_path / "m.onnx"), device)
    wrong = []

    def run(number):
        for turn in range(40):
            x = batch(1 + (turn + number) % 4, begin=100 * number + turn)
            y, z = session.run({"x": x})
            if not (np.array_equal(y, x @ WEIGHT) and np.array_equal(z, -x)):
                wrong.append((number, turn))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong


def test_a_thread_that_leaves_gives_its_memory_back(tmp_path, device) -> None:
    session = load(linear(tmp_path / "m.onnx"), device)
    before = device.free_and_total_bytes()
    session.run({"x": batch(4)})
    assert device.free_and_total_bytes() < before
    session.leave()
    device.give_back()
    assert device.free_and_total_bytes() == before


def test_how_long_the_parts_took(tmp_path) -> None:
    clock = iter(range(100))
    device = FakeAccelerator(clock=lambda: next(clock))
    session = load(linear(tmp_path / "m.onnx"), device)
    session.run({"x": batch(1)})
    assert session.times == (1, 1, 1)
