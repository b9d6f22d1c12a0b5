"""Reading what is and what is not a model, and writing it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import graph
from normserve_models.fold import fold
from normserve_models.graph import SourceError
from normserve_models.testing import Draft
from onnx import helper


def model(opset: int = 20) -> onnx.ModelProto:
    draft = Draft(opset)
    y = draft.node("Conv", draft.input("batch", 3, 5, 5, name="image"), draft.drawn(8, 3, 3, 3, name="weight"))
    y = draft.norm(y, 8, name="norm")
    return draft.output(draft.node("Conv", draft.node("Relu", y), draft.drawn(8, 8, 1, 1)))


def external(path, location: str = "weights.bin") -> None:
    onnx.save(model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = location
    path.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    "content",
    [b"", b"no model at all", bytes(range(256)), b"\x08\x0a", b"\x08", model().SerializeToString()[:-200]],
    ids=["empty", "text", "noise", "only a version", "cut in a number", "truncated"],
)
def test_what_is_not_a_model(tmp_path, content) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"model\.onnx: not an ONNX file, or truncated"):
        graph.load(path)


def test_what_is_not_there(tmp_path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        graph.load(tmp_path / "model.onnx")
    with pytest.raises(SourceError, match="Is a directory"):
        graph.load(tmp_path)


def test_a_cycle(tmp_path) -> None:
    proto = model()
    proto.graph.node[0].input[0] = proto.graph.node[1].output[0]
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(SourceError, match="cycle"):
        graph.load(path)


def test_nodes_in_any_order_are_sorted(tmp_path) -> None:
    proto = model()
    first = proto.graph.node.pop(0)
    proto.graph.node.append(first)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert [node.op_type for node in graph.load(path).graph] == ["Conv", "BatchNormalization", "Relu", "Conv"]


@pytest.mark.parametrize(
    ("location", "says"),
    [("../weights.bin", "outside"), ("/etc/hostname", "outside"), ("other.bin", "missing"), ("link.bin", "outside")],
)
def test_external_data_that_is_not_to_be_read(tmp_path, location, says) -> None:
    home = tmp_path / "model"
    home.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    (home / "link.bin").symlink_to(tmp_path / "weights.bin")
    external(home / "model.onnx", location)
    with pytest.raises(SourceError, match=says):
        graph.load(home / "model.onnx")


def test_external_data_that_is_too_short(tmp_path) -> None:
    path = tmp_path / "model.onnx"
    external(path)
    (tmp_path / "weights.bin").write_bytes(bytes(10))
    with pytest.raises(SourceError, match="10 bytes"):
        graph.load(path)


def test_external_data_with_another_name_elsewhere(tmp_path) -> None:
    path = tmp_path / "model.onnx"
    external(path)
    (tmp_path / "other.bin").hardlink_to(tmp_path / "weights.bin")
    with pytest.raises(SourceError, match="hard links"):
        graph.load(path)


def test_external_data_of_a_constant_node_is_looked_at_too(tmp_path) -> None:
    path = tmp_path / "model.onnx"
    draft = Draft(as_nodes=True)
    proto = draft.output(draft.node("Gemm", draft.input("batch", 4), draft.drawn(4, 4)))
    tensor = proto.graph.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(SourceError, match="outside"):
        graph.load(path)


def test_external_data_stays_external(tmp_path) -> None:
    path, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    external(path)
    loaded = graph.load(path)
    assert graph.external_files(loaded) == ["weights.bin"]
    fold(loaded)
    graph.save(loaded, target, "folded.onnx.data")
    assert graph.complaint(target) is None
    assert graph.external_files(graph.load(target)) == ["folded.onnx.data"]


def test_what_is_saved_is_what_protobuf_would_write(tmp_path) -> None:
    """Written tensor by tensor, for speed; onnx reads the same model."""
    path = tmp_path / "model.onnx"
    loaded = ir.from_proto(model())
    graph.save(loaded, path, "unused")
    assert onnx.load(path) == ir.to_proto(loaded)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_files_older_than_ir_4_may_not_be_overridden(tmp_path) -> None:
    """Their initializers had to be inputs, and onnxruntime takes them for constants."""
    proto = model(9)
    proto.ir_version = 3
    listed = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in proto.graph.initializer]
    proto.graph.input.extend(listed)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    loaded = graph.load(path)
    [norm] = fold(loaded)
    assert norm.folded
    graph.save(loaded, path, "unused")
    assert graph.complaint(path) is None
    assert [value.name for value in onnx.load(path).graph.input] == ["image"]


def test_batch_norms_are_found_in_bodies_and_by_either_name_of_the_domain() -> None:
    proto = model()
    proto.graph.node[1].domain = "ai.onnx"
    assert [node.name for node in graph.batch_norms(ir.from_proto(proto))] == ["norm"]


def test_a_result_that_the_checker_refuses_is_said(tmp_path) -> None:
    proto = model()
    proto.graph.node[0].input[1] = "nowhere"
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert "nowhere" in str(graph.complaint(path))


def test_names() -> None:
    names = graph.Names(ir.from_proto(model()))
    assert names.fresh("new") == "new"
    assert [names.fresh("weight") for _ in range(2)] == ["weight.2", "weight.3"]
    assert np.unique([names.fresh("new") for _ in range(50)]).size == 50
