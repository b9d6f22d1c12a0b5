import ml_dtypes
import numpy as np
import onnx
import pytest
from fake_device import FakeAccelerator
from normserve_proto.tensors import DTYPES
from normserve_server import devices
from normserve_server.accelerators.host import Host
from normserve_server.devices import CPU, CUDA
from normserve_server.errors import InternalError, InvalidRequestError
from normserve_server.servable import DYNAMIC
from normserve_server.session import LoadError, OnnxSession
from onnx import TensorProto, helper

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}


def save(path, nodes, inputs, outputs):
    graph = helper.make_graph(nodes, "test", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def identity(path, kind=TensorProto.FLOAT, shape=("batch", 2), out_shape=None):
    x = helper.make_tensor_value_info("x", kind, shape)
    y = helper.make_tensor_value_info("y", kind, out_shape or shape)
    return save(path, [helper.make_node("Identity", ["x"], ["y"])], [x], [y])


HOST = Host()


def load(path, max_batch_size=None, accelerator=HOST):
    return OnnxSession(path, accelerator, threads=1, max_batch_size=max_batch_size, default_max_batch_size=8)


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_goes_through(tmp_path, datatype) -> None:
    session = load(identity(tmp_path / "m.onnx", ONNX_TYPES[datatype]))
    assert session.signature.inputs[0].datatype == datatype
    assert session.provider == CPU
    values = ["a", "é"] if datatype == "BYTES" else [0, 1]
    x = np.array([values], object if datatype == "BYTES" else DTYPES[datatype])
    sent = np.array([[b"a", "é".encode()]], object) if datatype == "BYTES" else x
    (y,) = session.run({"x": sent})
    assert y.dtype == x.dtype
    assert y.tolist() == x.tolist()


def test_bfloat16_beside_other_inputs(tmp_path) -> None:
    infos = [helper.make_tensor_value_info(n, k, ["batch"]) for n, k in (("a", TensorProto.BFLOAT16), ("b", TensorProto.FLOAT))]
    cast = helper.make_node("Cast", ["a"], ["c"], to=TensorProto.FLOAT)
    add = helper.make_node("Add", ["b", "c"], ["y"])
    path = save(tmp_path / "m.onnx", [cast, add], infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])])
    a, b = np.array([1.5, 2], ml_dtypes.bfloat16), np.arange(4, dtype=np.float32)[::2]
    assert load(path).run({"a": a, "b": b})[0].tolist() == [1.5, 4.0]


@pytest.mark.parametrize("datatype", [datatype for datatype in DTYPES if datatype != "BYTES"])
@pytest.mark.parametrize("laid_out", [lambda x: np.repeat(x, 2, axis=1)[:, ::2], np.asfortranarray], ids=["strided", "fortran"])
def test_inputs_that_are_not_contiguous(tmp_path, datatype, laid_out) -> None:
    nodes = [helper.make_node("Identity", [name], [name + "y"]) for name in "ab"]
    ends = [[helper.make_tensor_value_info(n + end, ONNX_TYPES[datatype], ["batch", 50]) for n in "ab"] for end in ("", "y")]
    session = load(save(tmp_path / "m.onnx", nodes, *ends))
    for number in range(20):
        given = [(np.arange(200).reshape(4, 50) % 100 + number + begin).astype(DTYPES[datatype]) for begin in (0, 1)]
        outputs = session.run(dict(zip("ab", map(laid_out, given), strict=True)))
        for output, x in zip(outputs, given, strict=True):
            assert output.tobytes() == x.tobytes()


def test_no_output_is_an_input_s_memory(tmp_path) -> None:
    """Inputs lie in buffers that the next batch is put into, before these outputs are sent."""
    kinds = {"a": TensorProto.BFLOAT16, "b": TensorProto.FLOAT, "s": TensorProto.FLOAT}
    infos = [helper.make_tensor_value_info(name, kind, [] if name == "s" else ["batch"]) for name, kind in kinds.items()]
    session = load(save(tmp_path / "m.onnx", [], infos, infos))
    inputs = {"a": np.ones(2, ml_dtypes.bfloat16), "b": np.ones(2, np.float32), "s": np.array(1, np.float32)}
    outputs = session.run(inputs)
    for array in inputs.values():
        array[...] = 7
    assert [output.tolist() for output in outputs] == [[1, 1], [1, 1], 1]


def test_no_output_is_an_input_s_memory_although_nothing_is_computed(tmp_path) -> None:
    session, x = load(identity(tmp_path / "m.onnx")), np.ones((1, 2), np.float32)
    (y,) = session.run({"x": x})
    x[...] = 7
    assert y.tolist() == [[1, 1]]


def test_outputs_stay_while_later_runs_go_on(tmp_path) -> None:
    session = load(identity(tmp_path / "m.onnx"))
    kept = [session.run({"x": np.full((size, 2), size, np.float32)})[0] for size in (1, 3, 1, 0, 2)]
    assert [y.tolist() for y in kept] == [[[size, size]] * size for size in (1, 3, 1, 0, 2)]


@pytest.mark.parametrize(
    ("shape", "out_shape", "expected"),
    [
        (("batch", 2), ("batch", 2), 8),
        (("n", 2), ("m", 2), 0),  # two names: nobody says that the axes are one
        ((None, 2), (None, 2), 0),
        ((3, 2), (3, 2), 0),
    ],
)
def test_a_batch_axis_is_one_symbol_in_front_of_everything(tmp_path, shape, out_shape, expected) -> None:
    assert load(identity(tmp_path / "m.onnx", shape=shape, out_shape=out_shape)).signature.max_batch_size == expected


def test_an_explicit_batch_size_wins_and_is_checked(tmp_path) -> None:
    assert load(identity(tmp_path / "a.onnx"), max_batch_size=3).signature.max_batch_size == 3
    assert load(identity(tmp_path / "b.onnx"), max_batch_size=0).signature.max_batch_size == 0
    with pytest.raises(LoadError, match=r"max_batch_size is 3, but 'x' has shape \[3, 2\]"):
        load(identity(tmp_path / "c.onnx", shape=(3, 2)), max_batch_size=3)


def test_symbols_become_dynamic(tmp_path) -> None:
    session = load(identity(tmp_path / "m.onnx", shape=("batch", "width", 4)))
    assert session.signature.inputs[0].shape == (DYNAMIC, DYNAMIC, 4)


def test_what_onnxruntime_does_not_load_is_one_line(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(LoadError, match="onnxruntime does not load it: ") as refusal:
        load(path)
    assert "\n" not in str(refusal.value)


def test_a_failing_run_is_the_models_error(tmp_path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    table = helper.make_node("Constant", [], ["t"], value_floats=[1.0, 2.0])
    session = load(save(tmp_path / "m.onnx", [table, helper.make_node("Gather", ["t", "x"], ["y"])], [x], [y]))
    with pytest.raises(InternalError, match="onnxruntime: "):
        session.run({"x": np.array([7])})
    assert session.run({"x": np.array([1])})[0].tolist() == [2.0]


def test_what_was_bound_is_forgotten(tmp_path) -> None:
    session = load(identity(tmp_path / "m.onnx"))
    session.run({"x": np.ones((1, 2), np.float32)})
    with pytest.raises(InternalError, match="onnxruntime: "):
        session.run({})


def test_a_refusal_does_not_wait_for_the_device(tmp_path, monkeypatch) -> None:
    device, refusal = FakeAccelerator(), InvalidRequestError("no")
    session = load(identity(tmp_path / "m.onnx"), accelerator=device)
    monkeypatch.setattr(device, "broken", pytest.fail)
    assert session.failure(refusal) is refusal


def test_strings_are_utf8(tmp_path) -> None:
    session = load(identity(tmp_path / "m.onnx", TensorProto.STRING))
    with pytest.raises(InvalidRequestError, match="input 'x': an element is not UTF-8"):
        session.run({"x": np.array([[b"ok", b"\xff"]], object)})


def test_a_device_that_onnxruntime_does_not_give_is_an_error(tmp_path, monkeypatch) -> None:
    # This machine may have the GPU build of onnxruntime and no GPU: it then falls back to the CPU without a word.
    if devices.gpu_count():
        pytest.skip("this machine has a GPU")
    device = FakeAccelerator(index=3)
    monkeypatch.setattr(device, "providers", lambda *_: [CUDA, CPU])
    with pytest.raises(LoadError, match=r"asked for CUDAExecutionProvider \(cuda:3\), the session got CPUExecutionProvider"):
        load(identity(tmp_path / "m.onnx"), accelerator=device)


def test_types_that_the_protocol_cannot_carry_are_refused(tmp_path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.COMPLEX64, [1])
    graph = [helper.make_node("Identity", ["x"], ["y"])]
    path = save(tmp_path / "m.onnx", graph, [x], [helper.make_tensor_value_info("y", TensorProto.COMPLEX64, [1])])
    with pytest.raises(LoadError):
        load(path)
