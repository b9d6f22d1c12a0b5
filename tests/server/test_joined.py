"""Operators around a session: nothing between them is copied, neither on the host nor on a device that is late."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from fake_device import FakeAccelerator, reads_on_the_host
from normserve_proto.tensors import DTYPES
from normserve_server import operators
from normserve_server.accelerators.host import Host
from normserve_server.compute import Compute
from normserve_server.errors import InvalidRequestError
from normserve_server.joined import Joined
from normserve_server.operators.handover import to_tensor, to_value
from normserve_server.servable import Signature, TensorSpec
from normserve_server.value_binding import ValueBinding
from onnx import TensorProto, helper

DEVICES = [Host, FakeAccelerator]
C = np.array([0.5, 2, 3], np.float32)


class Session:
    """A session whose runs remember where their inputs and outputs were."""

    def __init__(self, path, nodes, inputs, outputs, accelerator) -> None:
        infos = [[helper.make_tensor_value_info(n, k, ["batch", 3, "w"]) for n, k in ends] for ends in (inputs, outputs)]
        graph = helper.make_graph(nodes, "test", *infos)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        specs = [tuple(TensorSpec(name, "FP32", (-1, 3, -1)) for name, _ in ends) for ends in (inputs, outputs)]
        self.signature = Signature(*specs, 8)
        self.provider = "CPUExecutionProvider"
        self.compute = Compute(accelerator, accelerator.lane())
        self._binding = ValueBinding(ort.InferenceSession(str(path), providers=[self.provider]), self.compute)
        self.read, self.written = {}, []

    def run_values(self, values):
        outputs = self._binding.run(values)
        self.read = {name: value.data_ptr() for name, value in values.items()}
        self.written = [value.data_ptr() for value in outputs]
        return outputs

    def failure(self, error):
        return error


@pytest.fixture(params=DEVICES)
def session(tmp_path, request):
    """y = 2x, beside n as it is."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Identity", ["n"], ["m"])]
    ends = (("x", TensorProto.FLOAT), ("n", TensorProto.INT64)), (("y", TensorProto.FLOAT), ("m", TensorProto.INT64))
    return Session(tmp_path / "m.onnx", nodes, *ends, request.param())


def inputs():
    return {"x": np.random.default_rng(0).normal(5, 2, (2, 3, 4)).astype(np.float32), "n": np.arange(24).reshape(2, 3, 4)}


@pytest.mark.parametrize("datatype", [datatype for datatype in DTYPES if datatype != "BYTES"])
def test_every_datatype_is_handed_over_where_it_is(datatype) -> None:
    kind = torch.bfloat16 if datatype == "BF16" else torch.from_numpy(np.empty(0, DTYPES[datatype])).dtype
    tensor = torch.tensor([[0, 1, 1]]).to(kind)
    value = to_value(tensor)
    back = to_tensor(value)
    assert value.data_ptr() == tensor.data_ptr() == back.data_ptr()
    assert (back.dtype, back.shape, back.tolist()) == (tensor.dtype, tensor.shape, tensor.tolist())
    del tensor, value
    assert back.tolist() == [[0, 1, 1]]


def test_what_one_side_lets_go_of_the_other_keeps() -> None:
    value = to_value(torch.full((1000,), 7.0))
    torch.full((1000,), 8.0)
    assert (value.numpy() == 7).all()


def test_operators_run_before_and_behind(session) -> None:
    given = inputs()
    joined = Joined(
        session, {"x": lambda x: operators.instance_norm(x, None, None, C, C)}, {"y": lambda y: operators.normalize(y, dim=-1)}
    )
    y, m = joined.run(given)
    wanted = operators.normalize(2 * operators.instance_norm(given["x"], None, None, C, C).output, dim=-1).output
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
    assert m.tolist() == given["n"].tolist()


def test_between_an_operator_and_the_session_nothing_is_copied(session, monkeypatch) -> None:
    seen = {}

    def noted(name):
        def operator(x):
            outcome = operators.layer_norm(x, (4,))
            seen[name] = (x.tensor.data_ptr(), outcome.output.tensor.data_ptr())
            return outcome

        return operator

    given = inputs()
    (y, _) = Joined(session, {"x": noted("x")}, {"y": noted("y")}).run(given)
    assert session.read["x"] == seen["x"][1]
    assert session.written[0] == seen["y"][0]
    apart = session.compute.accelerator.apart
    assert (seen["x"][0] != given["x"].ctypes.data) is apart
    assert (seen["y"][1] != y.ctypes.data) is apart
    if apart:  # what came, and what goes
        assert session.compute.accelerator.ordered("copy in", "copy out") == [
            ("copy in", 96), ("copy in", 192), ("copy out", 96), ("copy out", 192),
        ]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_no_output_is_an_input_s_memory(tmp_path, device) -> None:
    """Inputs lie in buffers that the next batch is put into, before these outputs are sent."""
    ends = (("x", TensorProto.FLOAT), ("n", TensorProto.INT64))
    given = inputs()
    outputs = Joined(Session(tmp_path / "m.onnx", [], ends, ends, device()), {}, {}).run(given)
    wanted = {name: array.copy() for name, array in given.items()}
    for array in given.values():
        array[...] = 0
    for output, right in zip(outputs, wanted.values(), strict=True):
        np.testing.assert_array_equal(output, right)


def test_what_the_session_reads_on_the_host_is_there_before_it_is_bound(tmp_path, monkeypatch) -> None:
    reads_on_the_host(monkeypatch, x=4)
    ends = (("x", TensorProto.FLOAT),), (("y", TensorProto.FLOAT),)
    session = Session(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], *ends, FakeAccelerator())
    x = inputs()["x"]
    (y,) = Joined(session, {}, {}).run({"x": x})
    np.testing.assert_array_equal(y, x)
    order = session.compute.accelerator.ordered("copy in", "synchronize", "copy out")
    assert [what for what, *_ in order] == ["copy in", "synchronize", "copy out", "synchronize"]


def test_halves_are_rounded_once(tmp_path) -> None:
    ends = (("x", TensorProto.BFLOAT16),), (("y", TensorProto.BFLOAT16),)
    session = Session(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], *ends, FakeAccelerator())
    x = inputs()["x"].astype(ml_dtypes.bfloat16)
    (y,) = Joined(session, {"x": lambda x: operators.layer_norm(x, (4,))}, {}).run({"x": x})
    assert y.tolist() == operators.layer_norm(x, (4,)).output.tolist()


def test_a_refusal_is_the_operators_and_the_next_call_is_none_the_worse(session) -> None:
    joined = Joined(session, {"x": lambda x: operators.group_norm(x, 2)}, {})
    with pytest.raises(InvalidRequestError, match="to be divisible by num_groups"):
        joined.run(inputs())
    (y, _) = Joined(session, {}, {}).run(inputs())
    np.testing.assert_array_equal(y, 2 * inputs()["x"])
