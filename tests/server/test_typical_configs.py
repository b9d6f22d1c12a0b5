"""Configs as people have them for Triton's onnxruntime backend, each against a real file: read, held against it, run, told."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import pytest
from google.protobuf import json_format
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import DTYPES
from normserve_server import model_config, warm_up
from normserve_server.accelerators.host import Host
from normserve_server.config_completion import completed
from normserve_server.config_signature import narrowed
from normserve_server.config_tensors import DATA_TYPES
from normserve_server.devices import CPU
from normserve_server.model_config import InstanceGroup, ModelConfig
from normserve_server.reshaping import Reshaped
from normserve_server.session import OnnxSession
from onnx import TensorProto, helper, numpy_helper

Tensors: TypeAlias = Mapping[str, tuple[int, list[int | str]]]
FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32

DENSENET = """
    name: "net"
    platform: "onnxruntime_onnx"
    max_batch_size : 0
    input [ { name: "data" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 8, 8 ] reshape { shape: [ 1, 3, 8, 8 ] } } ]
    output [
      {
        name: "prob" data_type: TYPE_FP32 dims: [ 10 ] reshape { shape: [ 1, 10, 1, 1 ] } label_filename: "labels.txt"
      }
    ]
"""
INCEPTION = """
    name: "net"
    platform: "onnxruntime_onnx"
    max_batch_size: 128
    input [ { name: "input" data_type: TYPE_FP32 format: FORMAT_NHWC dims: [ 9, 9, 3 ] } ]
    output [ { name: "Predictions/Softmax" data_type: TYPE_FP32 dims: [ 11 ] label_filename: "labels.txt" } ]
"""
RECOGNITION = """
    name: "net"
    backend: "onnxruntime"
    max_batch_size : 8
    input [ { name: "input.1" data_type: TYPE_FP32 dims: [ 1, 32, 100 ] } ]
    output [ { name: "308" data_type: TYPE_FP32 dims: [ 26, 37 ] } ]
    dynamic_batching { }
    instance_group [ { count: 2 kind: KIND_CPU } ]
"""
TWO_INPUTS = """
    platform: "onnxruntime_onnx"
    max_batch_size: 8
    version_policy: { latest { num_versions: 1 }}
    input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] } ]
    input [ { name: "INPUT1" data_type: TYPE_FP32 dims: [ 16 ] } ]
    output [ { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 16 ] } ]
    output [ { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 16 ] } ]
"""
EMBEDDING = """
    name: "net"
    platform: "onnxruntime_onnx"
    max_batch_size: 64
    version_policy: { specific: { versions: [1, 3] } }
    input [
      { name: "input_ids", data_type: TYPE_INT64, dims: [ -1 ] },
      { name: "attention_mask", data_type: TYPE_INT64, dims: [ -1 ] }
    ]
    output [ { name: "embeddings" data_type: TYPE_FP32 dims: [ 12 ] } ]
    dynamic_batching {
      preferred_batch_size: [ 8, 16, 32, 64 ]
      max_queue_delay_microseconds: 100000  # 100 ms
      default_queue_policy { max_queue_size: 128 timeout_action: REJECT default_timeout_microseconds: 500000 }
    }
    model_warmup [ {
      name: "short" batch_size: 8
      inputs { key: "input_ids" value: { data_type: TYPE_INT64 dims: [ 16 ] random_data: true } }
      inputs { key: "attention_mask" value: { data_type: TYPE_INT64 dims: [ 16 ] zero_data: true } }
    } ]
"""
DETECTION = """
    name: "net"
    backend: "onnxruntime"
    # max_batch_size: 1
    input [ { name: "images" data_type: TYPE_FP32 dims: [ 1, 3, 64, 64 ] } ]
    output [ { name: "output0" data_type: TYPE_FP32 dims: [ 1, 8, 84 ] } ]
"""
OPTIMIZED = """
    backend: "onnxruntime"
    optimization { graph : { level : 1 }}
    parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
    parameters { key: "execution_mode" value: { string_value: "0" } }
    parameters { key: "inter_op_thread_count" value: { string_value: "0" } }
"""
SCALAR = """
    platform: "onnxruntime_onnx"
    max_batch_size: 4
    input [ { name: "in" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } } ]
    output [ { name: "out" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } } ]
"""
IMAGE: Tensors = {"image": (FLOAT, ["n", 3, 4, 4])}

TYPICAL: dict[str, tuple[str, Tensors, Tensors]] = {
    "densenet": (DENSENET, {"data": (FLOAT, [1, 3, 8, 8])}, {"prob": (FLOAT, [1, 10, 1, 1])}),
    "inception": (INCEPTION, {"input": (FLOAT, ["n", 9, 9, 3])}, {"Predictions/Softmax": (FLOAT, ["n", 11])}),
    "recognition": (RECOGNITION, {"input.1": (FLOAT, ["n", 1, 32, 100])}, {"308": (FLOAT, ["n", 26, 37])}),
    "two inputs": (
        TWO_INPUTS,
        {"INPUT0": (FLOAT, ["n", 16]), "INPUT1": (FLOAT, ["n", 16])},
        {"OUTPUT0": (INT32, ["n", 16]), "OUTPUT1": (INT32, ["n", 16])},
    ),
    "embedding": (
        EMBEDDING,
        {"input_ids": (INT64, ["n", "words"]), "attention_mask": (INT64, ["n", "words"])},
        {"embeddings": (FLOAT, ["n", 12])},
    ),
    "detection": (DETECTION, {"images": (FLOAT, ["n", 3, "h", "w"])}, {"output0": (FLOAT, ["n", 8, 84])}),
    "scalar": (SCALAR, {"in": (FLOAT, ["n"])}, {"out": (FLOAT, ["n"])}),
    "optimized": (OPTIMIZED, IMAGE, {"scores": (FLOAT, ["n", 5])}),
}


def save(path: Path, inputs: Tensors, outputs: Tensors) -> Path:
    """A network whose every output is the mean of the inputs' sums, in its own shape."""
    nodes, sums, weights = [], [], []
    for position, name in enumerate(inputs):
        nodes += [
            helper.make_node("Cast", [name], [f"f{position}"], to=FLOAT),
            helper.make_node("Flatten", [f"f{position}"], [f"flat{position}"], axis=1),
            helper.make_node("ReduceMean", [f"flat{position}"], [f"sum{position}"], axes=[1], keepdims=1),
        ]
        sums.append(f"sum{position}")
    nodes.append(helper.make_node("Mean", sums, ["mean"]))
    for position, (name, (kind, shape)) in enumerate(outputs.items()):
        ones = np.ones([1, *shape[1:]], np.float32)
        weights.append(numpy_helper.from_array(ones, f"ones{position}"))
        weights.append(numpy_helper.from_array(np.array([-1] + [1] * (len(shape) - 1), np.int64), f"shape{position}"))
        nodes += [
            helper.make_node("Reshape", ["mean", f"shape{position}"], [f"one{position}"]),
            helper.make_node("Mul", [f"one{position}", f"ones{position}"], [f"all{position}"]),
            helper.make_node("Cast", [f"all{position}"], [name], to=kind),
        ]
    infos = [[helper.make_tensor_value_info(name, *told) for name, told in side.items()] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "test", *infos, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


class Served:
    """A config and a file put together as a server does."""

    def __init__(self, folder: Path, name: str) -> None:
        text, inputs, outputs = TYPICAL[name]
        self.folder = folder / "net"
        self.folder.mkdir()
        (self.folder / "config.pbtxt").write_text(text)
        (self.folder / "labels.txt").write_text("a\nb\n")
        self.config = model_config.read(self.folder)
        self.session = open_session(save(self.folder / "model.onnx", inputs, outputs), self.config)
        self.signature = narrowed(self.session.signature, self.config)
        reshapes = (self.config.input_reshapes, self.config.output_reshapes)
        self.servable = Reshaped(self.session, self.signature, *reshapes)

    def told(self, **used: object) -> pb.ModelConfig:
        facts = {"model": "net", "instances": [InstanceGroup(1, "cpu")], "threads": 1, "buckets": ()} | used
        return completed(self.config, self.signature, **facts)


def open_session(path: Path, config: ModelConfig) -> OnnxSession:
    return OnnxSession(path, Host(), threads=1, max_batch_size=config.max_batch_size, default_max_batch_size=4)


@pytest.mark.parametrize("name", TYPICAL)
def test_it_runs_in_the_shapes_that_its_clients_see(tmp_path: Path, name: str) -> None:
    served = Served(tmp_path, name)
    zeros = warm_up.zeros(served.signature) or {"input_ids": np.zeros((1, 5), "i8"), "attention_mask": np.zeros((1, 5), "i8")}
    outputs = served.servable.run({name: array + array.dtype.type(1) for name, array in zeros.items()})
    for spec, array in zip(served.signature.outputs, outputs, strict=True):
        assert array.shape == tuple(1 if extent == -1 else extent for extent in spec.shape)
        assert set(array.flat) == {1}
    assert served.servable.provider == CPU


@pytest.mark.parametrize("name", TYPICAL)
def test_what_is_told_can_be_sent_back(tmp_path: Path, name: str) -> None:
    served = Served(tmp_path, name)
    told = served.told()
    again = model_config.read(served.folder, json_format.MessageToJson(told))
    assert narrowed(served.session.signature, again) == served.signature
    assert completed(again, served.signature, model="net", instances=again.instances, threads=1, buckets=()) == told


def test_densenets_clients_see_no_batch(tmp_path: Path) -> None:
    served = Served(tmp_path, "densenet")
    assert served.signature.inputs[0].shape == (3, 8, 8)
    assert served.signature.outputs[0].shape == (10,)
    assert served.config.labels == {"prob": ("a", "b")}


def test_a_declared_extent_lets_a_model_be_warmed_up(tmp_path: Path) -> None:
    served = Served(tmp_path, "detection")
    assert served.signature.max_batch_size == 0
    assert warm_up.zeros(served.session.signature) is None
    assert warm_up.zeros(served.signature)["images"].shape == (1, 3, 64, 64)


def test_a_short_config_is_completed_from_the_file(tmp_path: Path) -> None:
    told = Served(tmp_path, "optimized").told(threads=3, buckets=(1, 2, 4))
    assert json_format.MessageToDict(told, preserving_proto_field_name=True) == {
        "name": "net",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 4,
        "input": [{"name": "image", "data_type": "TYPE_FP32", "dims": ["3", "4", "4"]}],
        "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": ["5"]}],
        "instance_group": [{"name": "net_0", "count": 1, "kind": "KIND_CPU"}],
        "default_model_filename": "model.onnx",
        "dynamic_batching": {},
        "optimization": {"graph": {"level": 1}},
        "parameters": {
            "intra_op_thread_count": {"string_value": "3"},
            "batch_buckets": {"string_value": "1,2,4"},
            "execution_mode": {"string_value": "0"},
            "inter_op_thread_count": {"string_value": "0"},
        },
        "model_transaction_policy": {},
    }


def test_what_was_given_is_told_as_it_was(tmp_path: Path) -> None:
    served = Served(tmp_path, "embedding")
    told = served.told(instances=[InstanceGroup(2, "gpu", (1,), "front"), InstanceGroup(1, "cpu")])
    assert told.dynamic_batching == served.config.message.dynamic_batching
    assert told.model_warmup == served.config.message.model_warmup
    assert told.version_policy == served.config.message.version_policy
    groups = [(group.name, group.count, group.kind, list(group.gpus)) for group in told.instance_group]
    kinds = pb.ModelInstanceGroup
    assert groups == [("front", 2, kinds.KIND_GPU, [1]), ("net_1", 1, kinds.KIND_CPU, [])]
    assert told.parameters["batch_buckets"].string_value == "none"
    assert not served.config.message.HasField("model_transaction_policy")  # the config itself stays as it was


def test_without_batching_there_is_no_batcher_and_with_reshapes_they_are_told(tmp_path: Path) -> None:
    told = Served(tmp_path, "densenet").told()
    assert not told.HasField("dynamic_batching")
    assert told.max_batch_size == 0
    assert list(told.input[0].dims) == [3, 8, 8]
    assert list(told.input[0].reshape.shape) == [1, 3, 8, 8]
    assert told.input[0].format == pb.ModelInput.FORMAT_NCHW
    assert told.output[0].label_filename == "labels.txt"


def test_every_datatype_has_its_enumerator() -> None:
    names = {datatype: pb.DataType.Name(number) for datatype, number in DATA_TYPES.items()}
    assert names == {name: "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}" for name in DTYPES}
