"""The parameter `operators` of a config: what it may say, and what it does to a model on the CPU."""

import json

import numpy as np
import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_server import config_parameters, joining, operators
from normserve_server.accelerators.host import Host
from normserve_server.compute import Compute
from normserve_server.errors import LoadError
from normserve_server.joined import Joined
from normserve_server.servable import Signature, TensorSpec


class Session:
    """Has tensors and computes nothing."""

    provider = "none"
    compute = Compute(Host(), Host().lane())

    def __init__(self, x: str = "FP32", batch: int = 8) -> None:
        inputs = (TensorSpec("x", x, (-1, 4, 6)), TensorSpec("n", "INT64", (-1,)))
        self.signature = Signature(inputs, (TensorSpec("y", "FP16", (-1, 4)),), batch)

    def run_values(self, values):
        return [values["x"]]

    def failure(self, error):
        return error


def read(text: str):
    return config_parameters.operators({"operators": pb.ModelParameter(string_value=text)})


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        ({"operator": "instance_norm"}, operators.instance_norm),
        ({"operator": "layer_norm", "normalized_shape": [4, 6]}, lambda x: operators.layer_norm(x, (4, 6))),
        ({"operator": "layer_norm", "normalized_shape": "6", "eps": 1}, lambda x: operators.layer_norm(x, (6,), eps=1)),
        ({"operator": "group_norm", "num_groups": 2}, lambda x: operators.group_norm(x, 2)),
        ({"operator": "rms_norm", "normalized_shape": 6}, lambda x: operators.rms_norm(x, (6,))),
        ({"operator": "local_response_norm", "size": 3}, lambda x: operators.local_response_norm(x, 3)),
        ({"operator": "normalize", "dim": -1, "p": 1}, lambda x: operators.normalize(x, 1, -1)),
    ],
)
def test_an_operator_is_applied_with_its_arguments(step, wanted) -> None:
    x = np.random.default_rng(0).normal(2, 3, (2, 4, 6)).astype(np.float32)
    (y,) = joining.joined(Session(), read(json.dumps({"x": step}))).run({"x": x})
    np.testing.assert_allclose(y, wanted(x).output, rtol=1e-6)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}', '{"x": {}}', "[" * 100_000])
def test_what_is_no_such_json_is_refused(text) -> None:
    with pytest.raises(LoadError, match=r"parameters\[operators\] is JSON such as"):
        read(text)


@pytest.mark.parametrize(
    ("wanted", "refusal"),
    [
        ({"z": {"operator": "normalize"}}, "names 'z', the model's file has x, n, y"),
        ({"n": {"operator": "normalize"}}, "of 'n': the tensor is INT64, operators take BF16, FP16, FP32, FP64"),
        ({"x": {"operator": "batch_norm"}}, "operator is one of instance_norm, .* got 'batch_norm'"),
        ({"x": {"operator": 3}}, "got 3"),
        ({"x": {"operator": "normalize", "size": 3}}, "normalize takes p, dim, eps here, got 'size'"),
        ({"x": {"operator": "instance_norm", "momentum": 1}}, "instance_norm takes eps here, got 'momentum'"),
        ({"x": {"operator": "group_norm"}}, "group_norm needs num_groups, an integer"),
        ({"x": {"operator": "group_norm", "num_groups": "two"}}, "num_groups is an integer, got 'two'"),
        ({"x": {"operator": "layer_norm", "normalized_shape": [[2]]}}, "normalized_shape is an integer, or .* got"),
        ({"x": {"operator": "normalize", "dim": 0}}, "normalize would mix the samples of a batch"),
        ({"x": {"operator": "normalize", "dim": -3}}, "normalize would mix the samples of a batch"),
        ({"x": {"operator": "rms_norm", "normalized_shape": [8, 4, 6]}}, "rms_norm would mix the samples of a batch"),
    ],
)
def test_what_cannot_be_is_refused_by_name(wanted, refusal) -> None:
    with pytest.raises(LoadError, match=refusal):
        joining.joined(Session(), wanted)


def test_without_a_batch_any_axis_is_a_sample_s_own() -> None:
    assert isinstance(joining.joined(Session(batch=0), {"x": {"operator": "normalize", "dim": 0}}), Joined)


def test_strings_are_not_for_operators() -> None:
    with pytest.raises(LoadError, match="is not for models with strings"):
        joining.joined(Session("BYTES"), {"y": {"operator": "normalize"}})
