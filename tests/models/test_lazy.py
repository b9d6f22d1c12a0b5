"""Reading a file without its weights gives the model that the parser gives."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import graph, lazy
from normserve_models.testing import Draft

DTYPES = [np.float16, np.dtype(ml_dtypes.bfloat16), np.float32, np.float64]


def large(dtype=np.float32) -> onnx.ModelProto:
    """A weight that is large, one that is not, and one of integers that is large."""
    draft = Draft(dtype=dtype)
    y = draft.node("Add", draft.input("batch", 300, 300, name="x"), draft.drawn(300, 300, name="weight"))
    indices = draft.constant(np.arange(20_000) % 300, dtype=np.int64, name="indices")
    return draft.output(draft.node("Gather", draft.node("Add", y, draft.drawn(300, name="bias")), indices))


@pytest.fixture
def path(tmp_path):
    onnx.save(large(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def tensors(model: ir.Model) -> dict:
    return {name: value.const_value for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_model_is_the_same(tmp_path, dtype) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(large(dtype), path)
    model = lazy.load(path)
    assert {name for name, tensor in tensors(model).items() if isinstance(tensor, ir.LazyTensor)} == {"weight"}
    assert tensors(model)["weight"].dtype.numpy() == dtype
    assert ir.to_proto(model).SerializeToString() == ir.to_proto(ir.load(path)).SerializeToString()


def test_what_has_been_written_tensor_by_tensor_is_read(tmp_path, path) -> None:
    graph.save(ir.load(path), tmp_path / "written.onnx", "unused")
    written, source = (ir.to_proto(model) for model in (lazy.load(tmp_path / "written.onnx"), ir.load(path)))
    assert written.SerializeToString() == source.SerializeToString()


def test_a_file_that_is_replaced_meanwhile_is_read_as_it_was(path) -> None:
    wanted = np.array(tensors(ir.load(path))["weight"].numpy())
    model = lazy.load(path)
    path.rename(path.with_name("moved"))
    path.write_bytes(b"another file")
    np.testing.assert_array_equal(tensors(model)["weight"].numpy(), wanted)


def test_a_file_that_is_cut_off_meanwhile_is_an_error(path) -> None:
    model = lazy.load(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(OSError, match=r"model\.onnx: it has been cut off"):
        tensors(model)["weight"].numpy()


def twice(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.initializer.append(model.graph.initializer[0])
    return model


UNUSUAL = {
    "empty": b"",
    "a length beyond the end": large().SerializeToString()[:-100],
    "a number without end": b"\xff" * 100,
    "a group": b"\x0b\x0c",
    "two weights of one name": twice(large()).SerializeToString(),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_what_is_unusual_is_left_to_the_parser(tmp_path, case) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(UNUSUAL[case])
    with pytest.raises(lazy.UnusualError):
        lazy.load(path)


def test_a_directory_is_left_to_the_parser(tmp_path) -> None:
    with pytest.raises(lazy.UnusualError):
        lazy.load(tmp_path)


def test_messages_that_come_in_pieces_are_joined(path) -> None:
    more = onnx.ModelProto(producer_name="two messages, one after the other")
    more.graph.output.append(onnx.ValueInfoProto(name="bias"))
    path.write_bytes(path.read_bytes() + more.SerializeToString())
    model = lazy.load(path)
    assert model.producer_name == more.producer_name
    assert model.graph.outputs[-1].name == "bias"
    assert tensors(model)["weight"].numpy().shape == (300, 300)
