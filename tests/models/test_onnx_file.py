"""Reading and writing without the weights agrees with protobuf, whatever the bytes."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from google.protobuf.message import DecodeError
from normserve_models import onnx_file
from normserve_models.testing import Draft


def model(dtype=np.float32) -> onnx.ModelProto:
    draft = Draft()
    y = draft.node("Gemm", draft.input("batch", 64), draft.drawn(64, 64, dtype=dtype, name="large"), draft.drawn(64))
    return draft.output(draft.node("MatMul", y, draft.drawn(64, 32, name="large too")))


def written(path, content: bytes):
    path.write_bytes(content)
    return path


def restored(path) -> onnx.ModelProto:
    proto, spans = onnx_file.read(path)
    for index, span in spans.items():
        proto.graph.initializer[index].raw_data = path.read_bytes()[span.offset : span.offset + span.length]
    return proto


def test_only_the_large_stay_in_the_file(tmp_path) -> None:
    path = written(tmp_path / "model.onnx", model().SerializeToString())
    proto, spans = onnx_file.read(path)
    assert {proto.graph.initializer[index].name: span.length for index, span in spans.items()} == {
        "large": 64 * 64 * 4,
        "large too": 64 * 32 * 4,
    }
    assert restored(path) == model()


def unusual() -> dict[str, bytes]:
    whole = model().SerializeToString()
    again = onnx.ModelProto()
    again.graph.initializer.append(model().graph.initializer[0])
    return {
        "two graphs, which protobuf merges": whole + again.SerializeToString(),
        "an unknown group": whole + bytes([99 << 3 & 0x7F | 3 | 0x80, 6, 99 << 3 & 0x7F | 4 | 0x80, 6]),
        "fixed sizes": whole + bytes([13 << 3 | 5, 1, 2, 3, 4, 12 << 3 | 1, *range(8)]),
        "no graph": b"\x08\x0a",
        "nothing": b"",
    }


@pytest.mark.parametrize("case", unusual())
def test_an_encoding_that_nobody_writes_is_read_as_protobuf_does(tmp_path, case) -> None:
    content = unusual()[case]
    assert restored(written(tmp_path / "model.onnx", content)) == onnx.ModelProto.FromString(content)


def parsed(read):
    try:
        return read()
    except DecodeError:
        return None


def test_damaged_files_are_judged_as_protobuf_does(tmp_path) -> None:
    sound = model().SerializeToString()
    generator = np.random.default_rng(0)
    path, outcomes = tmp_path / "model.onnx", set()
    for number in range(1500):
        content = np.frombuffer(sound, np.uint8).copy()
        structure = np.r_[0:200, 200 + 64 * 64 * 4 : len(sound)]  # the numbers of a weight decide nothing
        content[generator.choice(structure, 2)] = generator.integers(0, 256, 2)
        content = content[: generator.choice(structure)] if number % 3 == 0 else content
        wanted = parsed(lambda content=content: onnx.ModelProto.FromString(content.tobytes()))
        written(path, content.tobytes())
        got = parsed(lambda: restored(path))
        assert got == wanted
        outcomes.add(got is None)
    assert outcomes == {True, False}


def test_what_is_written_is_what_protobuf_would_write(tmp_path) -> None:
    path = tmp_path / "model.onnx"
    for dtype in (np.float16, np.float32, np.float64):
        graph = ir.from_proto(model())
        weight = graph.graph.initializers["large"]
        weight.const_value = ir.Tensor(weight.const_value.numpy().astype(dtype), name="large", doc_string="mine")
        onnx_file.write(graph, path)
        assert onnx.load(path) == ir.to_proto(graph)
        assert graph.graph.initializers["large"].const_value.dtype.numpy() == dtype
