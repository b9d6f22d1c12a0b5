"""Reading what is and what is not a model, and writing it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import graph, wiring
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


def test_external_data_with_another_name_elsewhere_is_read(tmp_path) -> None:
    """Package managers and caches link instead of copying; onnxruntime reads it too."""
    path = tmp_path / "model.onnx"
    external(path)
    (tmp_path / "other.bin").hardlink_to(tmp_path / "weights.bin")
    assert weights(graph.load(path)) == weights(ir.from_proto(model()))


def test_a_cache_that_holds_links_to_the_model_and_to_its_data(tmp_path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    external(blobs / "model.onnx")
    for name, blob in {"model.onnx": "model.onnx", "weights.bin": "0123"}.items():
        (snapshot / name).symlink_to(blobs / blob)
    (blobs / "weights.bin").rename(blobs / "0123")
    loaded = graph.load(snapshot / "model.onnx")
    assert weights(loaded) == weights(ir.from_proto(model()))
    assert graph.external_files(loaded) == ["weights.bin"]


def weights(loaded: ir.Model) -> dict[str, bytes]:
    return {name: value.const_value.tobytes() for name, value in loaded.graph.initializers.items()}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"offset": "-4"}, "non-negative"),
        ({"length": "8"}, "is 8 bytes .* wanted 864"),
        ({"length": "865"}, "is 865 bytes"),
        ({"offset": "9999999999999"}, "wants 10000000000863"),
        ({"offset": "many"}, "invalid literal"),
        ({"location": ""}, "missing"),
        ({"location": "."}, "missing"),
        ({"location": "a\0b"}, "null"),
        ({"location": "model.onnx"}, "model.onnx' has"),
    ],
)
def test_external_data_that_is_not_where_it_should_be(tmp_path, entries, says) -> None:
    path = tmp_path / "model.onnx"
    external(path)
    proto = onnx.load(path, load_external_data=False)
    entries = {"location": "weights.bin"} | entries
    del proto.graph.initializer[0].external_data[:]
    for key, value in entries.items():
        proto.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString()[:800] if "model.onnx" in says else proto.SerializeToString())
    with pytest.raises(SourceError, match=says):
        graph.load(path)


def constant_node(path, location: str, *, in_function: bool) -> None:
    draft = Draft(as_nodes=True)
    x = draft.input("batch", 4)
    proto = draft.output(draft.node("Gemm", x, draft.drawn(4, 4), name="gemm"))
    tensor = proto.graph.node[0].attribute[0].t
    (path.parent / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if in_function:
        body = helper.make_function("local", "Layer", [x], ["gemm.y"], proto.graph.node, proto.opset_import)
        proto.functions.append(body)
        del proto.graph.node[:]
        proto.graph.node.append(helper.make_node("Layer", [x], ["gemm.y"], domain="local"))
        proto.opset_import.append(helper.make_opsetid("local", 1))
    path.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize("in_function", [False, True])
def test_external_data_of_a_constant_node_is_looked_at_too(tmp_path, in_function) -> None:
    path = tmp_path / "model.onnx"
    constant_node(path, "../weights.bin", in_function=in_function)
    with pytest.raises(SourceError, match="outside"):
        graph.load(path)


@pytest.mark.parametrize("in_function", [False, True])
def test_external_data_of_a_constant_node_is_read_from_beside_the_model(tmp_path, monkeypatch, in_function) -> None:
    path = tmp_path / "model.onnx"
    constant_node(path, "weights.bin", in_function=in_function)
    monkeypatch.chdir("/")
    loaded = graph.load(path)
    [body] = loaded.functions.values() if in_function else [loaded.graph]
    assert body[0].attributes["value"].as_tensor().tobytes() == (tmp_path / "weights.bin").read_bytes()
    assert graph.external_files(loaded) == ["weights.bin"]
    graph.save(loaded, tmp_path / "saved.onnx", "saved.data")  # a Constant node's goes into the message
    assert graph.external_files(graph.load(tmp_path / "saved.onnx")) == []


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


def test_large_weights_are_read_when_they_are_asked_for_and_not_kept(tmp_path) -> None:
    path = tmp_path / "model.onnx"
    draft = Draft()
    proto = draft.output(draft.node("Gemm", draft.input("batch", 64), draft.drawn(64, 64, name="weight")))
    path.write_bytes(proto.SerializeToString())
    weight = graph.load(path).graph.initializers["weight"].const_value
    for sign in (1, -1):
        numbers = sign * np.arange(64.0 * 64, dtype=np.float32).reshape(64, 64)
        proto.graph.initializer[0].raw_data = numbers.tobytes()
        path.write_bytes(proto.SerializeToString())
        np.testing.assert_array_equal(weight.numpy(), numbers)


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
    names = wiring.Names(ir.from_proto(model()))
    assert names.fresh("new") == "new"
    assert [names.fresh("weight") for _ in range(2)] == ["weight.2", "weight.3"]
    assert np.unique([names.fresh("new") for _ in range(50)]).size == 50
