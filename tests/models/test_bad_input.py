"""Whatever the file: exit code 0, 1 or 2, one line that says what is wrong, and nothing left behind."""

import copy
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from normserve_models import prepare
from normserve_models.report import Report
from normserve_models.testing import Draft
from onnx import helper


def model() -> onnx.ModelProto:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 5, 5, name="image"), draft.drawn(4, 3, 1, 1), draft.drawn(4))
    y = draft.node("Relu", draft.norm(y, 4, name="norm"))
    return draft.output(draft.node("Gemm", draft.node("Flatten", y), draft.drawn(100, 2), beta=0.5))


def several() -> list[onnx.ModelProto]:
    """Models that take different ways through the fold."""
    dense = Draft(opset=13)
    y = dense.node("Add", dense.node("MatMul", dense.input("batch", 3), dense.drawn(3, 4)), dense.drawn(4))
    y = dense.norm(dense.norm(y, 4), 4)
    nodes = Draft(as_nodes=True)
    z = nodes.node("ConvTranspose", nodes.input("batch", 4, 3, 3), nodes.drawn(4, 2, 2, 2), nodes.drawn(4), group=2)
    computed = Draft()
    weight = computed.node("Transpose", computed.drawn(4, 4), perm=[1, 0])
    gamma = computed.node("Expand", computed.constant([1.0]), computed.node("Shape", weight, start=0, end=1))
    x = computed.node("MatMul", computed.input("batch", 4), weight)
    rest = (computed.drawn(4), computed.drawn(4), computed.constant(np.ones(4)))
    return [
        model(),
        dense.output(y, dense.node("Relu", y)),
        nodes.output(nodes.norm(z, 4)),
        computed.output(computed.node("BatchNormalization", x, gamma, *rest)),
    ]


@pytest.fixture
def judged(tmp_path, capfd, caplog):
    """Prepare a file in this process; hold the outcome to what every outcome has to keep."""
    source, out = tmp_path / "model.onnx", tmp_path / "artifact"

    def judge(content: bytes) -> tuple[int, str]:
        source.write_bytes(content)
        code = prepare.main([str(source), str(out)])
        said = capfd.readouterr()
        assert (said.out, caplog.text) == ("", "")  # what is logged goes to stderr outside of pytest
        assert code in {0, 1, 2}
        assert said.err.count("\n") == (code > 0)
        assert said.err.startswith(str(source) if code else "")
        assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", *(["artifact"] if code == 0 else [])}
        shutil.rmtree(out, ignore_errors=True)
        return code, said.err

    return judge


def test_bytes_that_are_lacking(judged) -> None:
    sound = model().SerializeToString()
    for size in np.random.default_rng(0).permutation(len(sound))[:150]:
        assert judged(sound[:size])[0] == 2


@pytest.mark.parametrize("seed", range(3))
def test_bytes_and_bits_that_are_wrong(judged, seed) -> None:
    sound = np.frombuffer(model().SerializeToString(), np.uint8)
    generator, codes = np.random.default_rng(seed), set()
    for number in range(100):
        content, where = sound.copy(), generator.integers(0, len(sound), 3)
        content[where] = generator.integers(0, 256, 3) if number % 2 else content[where] ^ 1 << generator.integers(0, 8, 3)
        codes.add(judged(content.tobytes())[0])
    assert {0, 2} <= codes


@pytest.mark.parametrize("seed", range(3))
def test_graphs_that_are_wrong(judged, seed) -> None:
    """Messages that protobuf reads, of graphs that mean nothing."""
    sound, generator, codes = several(), np.random.default_rng(seed), set()
    for _ in range(100):
        proto = copy.deepcopy(one_of(generator, sound))
        one_of(generator, WRONGS)(proto, generator)
        codes.add(judged(proto.SerializeToString())[0])
    assert {0, 2} <= codes


def one_of(generator, choices):
    return choices[int(generator.integers(len(choices)))]


def names(proto) -> list[str]:
    used = [name for node in proto.graph.node for name in (*node.input, *node.output)]
    return [*used, "", "nowhere", "new"]


def rewired_input(proto, generator) -> None:
    node = one_of(generator, [node for node in proto.graph.node if node.input])
    node.input[int(generator.integers(len(node.input)))] = one_of(generator, names(proto))


def rewired_output(proto, generator) -> None:
    one_of(generator, proto.graph.node).output[0] = one_of(generator, names(proto))


def another_count(proto, generator) -> None:
    node = one_of(generator, proto.graph.node)
    change = one_of(generator, ["less", "more in", "more out"])
    if change == "less" and node.input:
        node.input.pop()
    else:
        (node.output if change == "more out" else node.input).append(one_of(generator, names(proto)))


OPERATORS = ["Relu", "Conv", "BatchNormalization", "Gemm", "MatMul", "Add", "If", "Loop", "Constant", "Cast", "Shape", "Nope"]


def another_operator(proto, generator) -> None:
    one_of(generator, proto.graph.node).op_type = one_of(generator, OPERATORS)


def another_domain(proto, generator) -> None:
    one_of(generator, proto.graph.node).domain = one_of(generator, ["com.microsoft", "ai.onnx", "their.domain"])


def another_attribute(proto, generator) -> None:
    name = one_of(generator, ["training_mode", "epsilon", "group", "transB", "auto_pad", "value", "axis", "dilations"])
    value = one_of(generator, [0, 2, -1, 1.5, float("nan"), "SAME", [1, 1], [0]])
    one_of(generator, proto.graph.node).attribute.append(helper.make_attribute(name, value))


def another_tensor(proto, generator) -> None:
    tensors = [*proto.graph.initializer, *(node.attribute[0].t for node in proto.graph.node if node.op_type == "Constant")]
    tensor = one_of(generator, tensors)
    change = one_of(generator, ["dims", "type", "data", "rank"])
    if change == "dims":
        tensor.dims[0] = one_of(generator, [0, 1, -1, 1 << 20, 7])
    elif change == "type":
        tensor.data_type = int(generator.integers(27))
    elif change == "data":
        tensor.raw_data = tensor.raw_data[: int(generator.integers(len(tensor.raw_data)))]
    else:
        tensor.ClearField("dims")


def nodes_gone_or_twice(proto, generator) -> None:
    node = one_of(generator, proto.graph.node)
    if generator.integers(2):
        proto.graph.node.append(copy.deepcopy(node))
    else:
        proto.graph.node.remove(node)


def another_declaration(proto, generator) -> None:
    value = one_of(generator, [*proto.graph.input, *proto.graph.output, *proto.graph.value_info])
    if generator.integers(2):
        value.type.tensor_type.elem_type = int(generator.integers(24))
    else:
        value.ClearField("type")


def another_version(proto, generator) -> None:
    change = one_of(generator, ["opset", "ir", "none"])
    if change == "opset":
        proto.opset_import[0].version = int(generator.integers(40))
    elif change == "ir":
        proto.ir_version = int(generator.integers(16))
    else:
        del proto.opset_import[:]


WRONGS = [
    *(rewired_input, rewired_output, another_count, another_operator, another_domain, another_attribute),
    *(another_tensor, nodes_gone_or_twice, another_declaration, another_version),
]


@pytest.mark.parametrize("opset", [27, 99])
def test_an_opset_that_onnxruntime_does_not_know(judged, opset) -> None:
    proto = model()
    proto.opset_import[0].version = opset
    code, said = judged(proto.SerializeToString())
    assert code == 2
    assert "official support for domain ai.onnx is till opset 26" in said
    assert "/onnxruntime_src/" not in said


def test_a_format_that_onnxruntime_does_not_know(judged) -> None:
    proto = model()
    proto.ir_version = 14
    code, said = judged(proto.SerializeToString())
    assert (code, said.count("\n")) == (2, 1)
    assert said.endswith("onnxruntime cannot load it: Unsupported model IR version: 14, max supported IR version: 13\n")


@pytest.mark.parametrize("domain", ["their.domain", "com.microsoft"])
def test_an_operator_that_onnxruntime_does_not_know(judged, domain) -> None:
    proto = model()
    proto.graph.node[2].domain = domain
    proto.graph.node[2].op_type = "Mystery"
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    code, said = judged(proto.SerializeToString())
    assert code == 2
    assert "Mystery" in said


def test_a_function_that_calls_itself(judged) -> None:
    proto = model()
    call = helper.make_node("Again", ["v"], ["w"], domain="local")
    proto.functions.append(helper.make_function("local", "Again", ["v"], ["w"], [call], proto.opset_import))
    proto.graph.node[2].CopyFrom(
        helper.make_node("Again", proto.graph.node[2].input, proto.graph.node[2].output, domain="local")
    )
    proto.opset_import.append(helper.make_opsetid("local", 1))
    assert judged(proto.SerializeToString())[0] == 2


def test_a_model_that_onnxruntime_loads_and_cannot_run(judged) -> None:
    """Nobody looks at the shape of this bias before it is added."""
    draft = Draft()
    y = draft.node("Gemm", draft.input("batch", 3), draft.drawn(3, 4), draft.drawn(64, 2))
    code, said = judged(draft.output(draft.norm(y, 4)).SerializeToString())
    assert code == 2
    assert "the model accepts no inputs that were drawn" in said


@pytest.mark.parametrize(
    ("parameter", "number", "says"),
    [
        (4, -1.0, "variance holds -1.0 in channel 2"),
        (4, np.nan, "variance holds nan in channel 2"),
        (4, np.inf, "variance holds inf in channel 2"),
        (3, np.nan, "mean holds nan in channel 2"),
        (1, -np.inf, "scale holds -inf in channel 2"),
    ],
)
def test_statistics_that_mean_nothing_are_no_error(tmp_path, parameter, number, says) -> None:
    proto = model()
    [norm] = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    [tensor] = [tensor for tensor in proto.graph.initializer if tensor.name == norm.input[parameter]]
    values = np.frombuffer(tensor.raw_data, np.float32).copy()
    values[2] = number
    tensor.raw_data = values.tobytes()
    source, out = tmp_path / "model.onnx", tmp_path / "artifact"
    source.write_bytes(proto.SerializeToString())
    assert prepare.main([str(source), str(out)]) == 0
    [fate] = Report.from_json((out / "report.json").read_text()).norms
    assert (fate.folded, fate.reason) == (False, "bad_statistics")
    assert says in fate.detail
    assert (out / "model.onnx").read_bytes() == source.read_bytes()


def fold(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "normserve.cli", "fold", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text", "not an ONNX file"),
        ("directory", "Is a directory"),
        ("pipe", "not a regular file"),
        ("nothing", "No such file"),
        ("a folder as output", "is a directory, wanted the name of a file"),
        ("report nowhere", "there is no directory"),
        ("cycle", "the graph has a cycle"),
    ],
)
def test_the_command_says_it_in_one_line_and_writes_nothing(tmp_path, kind, says) -> None:
    source, target = tmp_path / "model.onnx", tmp_path / "out.onnx"
    source.write_bytes(model().SerializeToString())
    arguments = [source, target]
    if kind in {"text", "directory", "pipe", "nothing"}:
        source.unlink()
    if kind == "text":
        source.write_text("<html>not found</html>")
    elif kind == "directory":
        source.mkdir()
    elif kind == "pipe":
        os.mkfifo(source)
    elif kind == "a folder as output":
        target.mkdir()
    elif kind == "report nowhere":
        arguments += ["--report", tmp_path / "nowhere" / "report.json"]
    elif kind == "cycle":
        proto = model()
        proto.graph.node[0].input[0] = proto.graph.node[1].output[0]
        source.write_bytes(proto.SerializeToString())
    before = sorted(tmp_path.iterdir())
    done = fold(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("normserve: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert sorted(tmp_path.iterdir()) == before
