"""Operators on a device: statistics that come back right, dtypes, and what they and a session hand each other there."""

import numpy as np
import onnx
import pytest
from normserve_proto.tensors import DTYPES
from normserve_server import joining, operators
from normserve_server.joined import Joined
from normserve_server.operators import Place as Where
from normserve_server.session import OnnxSession
from onnx import TensorProto, helper

SHAPE = (16, 32, 24, 48)  # 2.4 MB of float32: enough to be taken to the device


def numbers(datatype="FP32"):
    return np.random.default_rng(0).normal(3, 2, SHAPE).astype(DTYPES[datatype])


def nearly(got, wanted, tolerance):
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("instances", [False, True])
def test_running_statistics_come_back_right(accelerator, instances):
    mean, var = (np.random.default_rng(1).uniform(0.5, 2, (2, SHAPE[1]))).astype(np.float32)
    x, axes = numbers(), (2, 3) if instances else (0, 2, 3)

    def compute(given):
        operator = operators.instance_norm if instances else operators.batch_norm
        return operator(given, mean, var, None, None, True, 0.3)

    there = Where(accelerator, pytest.fail).run(x, compute)
    wide = x.astype(np.float64)
    count = x[0, 0].size if instances else x.size // SHAPE[1]
    moved = [wide.mean(axes), wide.var(axes) * count / (count - 1)]
    if instances:
        moved = [each.mean(0) for each in moved]
    nearly(there.running_mean, (0.7 * mean + 0.3 * moved[0]).astype(np.float32), 1e-5)
    nearly(there.running_var, (0.7 * var + 0.3 * moved[1]).astype(np.float32), 1e-5)
    nearly(there.output, compute(x).output, 1e-4)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP64"])
def test_other_dtypes_are_computed_there_too(accelerator, datatype):
    x = numbers(datatype)
    weight = np.linspace(0.5, 2, SHAPE[-1]).astype(x.dtype)
    got = Where(accelerator, pytest.fail).run(x, lambda given: operators.layer_norm(given, SHAPE[-1:], weight)).output
    nearly(got, operators.layer_norm(x, SHAPE[-1:], weight).output, {"FP16": 2e-3, "BF16": 2e-2, "FP64": 1e-10}[datatype])


def test_neighbouring_channels(accelerator):
    x = numbers()
    got = Where(accelerator, pytest.fail).run(x, lambda given: operators.local_response_norm(given, 5)).output
    nearly(got, operators.local_response_norm(x, 5).output, 1e-4)


@pytest.fixture
def session(accelerator, tmp_path):
    """Doubles."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8, 32]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "test", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    return OnnxSession(tmp_path / "m.onnx", accelerator, threads=1, max_batch_size=None, default_max_batch_size=8)


def test_operators_around_a_model_give_the_hosts_numbers(session):
    wanted = {"x": {"operator": "instance_norm"}, "y": {"operator": "normalize", "dim": -1}}
    joined = joining.joined(session, wanted)
    for size in (1, 8, 3):
        x = np.random.default_rng(size).normal(5, 2, (size, 8, 32)).astype(np.float32)
        (y,) = joined.run({"x": x})
        nearly(y, operators.normalize(2 * operators.instance_norm(x).output, dim=-1).output, 1e-4)


def test_between_an_operator_and_a_session_nothing_is_copied(session, monkeypatch):
    left, met, run = {}, {}, session.run_values

    def operator(name):
        def compute(given):
            outcome = operators.layer_norm(given, (32,))
            left[name] = (given.tensor.data_ptr(), outcome.output.tensor.data_ptr())
            return outcome

        return compute

    def seen(values):
        (value,) = outputs = run(values)
        met["x"], met["y"] = values["x"].data_ptr(), value.data_ptr()
        return outputs

    monkeypatch.setattr(session, "run_values", seen)
    Joined(session, {"x": operator("x")}, {"y": operator("y")}).run({"x": np.ones((2, 8, 32), np.float32)})
    assert (met["x"], met["y"]) == (left["x"][1], left["y"][0])
