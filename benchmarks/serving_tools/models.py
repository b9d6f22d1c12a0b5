"""The models that the service is measured with, and the request for each."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from normserve_proto import open_inference_pb2 as pb
from numpy.typing import NDArray

OUT = Path(__file__).parents[1] / "out"
CHANNELS = 3  # a run takes some 10 us: short enough that what serving adds is seen


@dataclass(frozen=True)
class Model:
    """A model with one float32 input and one output.

    Attributes:
        name: in the repository.
        kind: what its file holds: a network of the zoo, convolutions, or an identity.
        input_name: of its input.
        shape: of one sample.
        threads: of a session that is run bare; 0 for one per core. More than one only spin beside a run of microseconds.
    """

    name: str
    kind: Literal["zoo", "convolutions", "identity"]
    input_name: str
    shape: tuple[int, ...]
    threads: int = 1

    def samples(self, count: int) -> NDArray[np.float32]:
        """The same numbers each time, [count, *shape]."""
        return np.random.default_rng(0).random((count, *self.shape), np.float32)

    def request(self) -> bytes:
        """A ModelInferRequest with one sample."""
        sample = self.samples(1)
        message = pb.ModelInferRequest(model_name=self.name, raw_input_contents=[sample.tobytes()])
        message.inputs.add(name=self.input_name, datatype="FP32", shape=sample.shape)
        return bytes(message.SerializeToString())


RESNET50 = Model("resnet50", "zoo", "image", (3, 224, 224), threads=0)
SMALL = Model("small", "convolutions", "x", (3, 32, 32))  # 12 KiB in and out
MIB = Model("mib", "identity", "x", (262_144,))  # 1 MiB in and out


def build(model: Model, repository: Path) -> Path:
    """Puts a model into the repository, as it would come from its author; returns the file."""
    path = repository / model.name / "1" / "model.onnx"
    if model.kind == "zoo":
        run_module("normserve_models.zoo.build", "--repository", str(repository), model.name)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(small_network() if model.kind == "convolutions" else identity(model.shape))
    return path


@cache
def folded(name: str, source: Path) -> Path:
    """Folds a model's file as the server does; returns the file that is really run."""
    target = OUT / "folded" / name
    shutil.rmtree(target, ignore_errors=True)  # it may be of an older fold
    run_module("normserve_models.prepare", str(source), str(target))
    return target / "model.onnx"


def run_module(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.DEVNULL)


def small_network(seed: int = 0) -> bytes:
    """An ONNX file: convolution, batch norm, ReLU; [batch, 3, 32, 32] to the same."""
    from onnx import helper, numpy_helper

    random = np.random.default_rng(seed)
    weights = {
        "w": random.normal(size=(CHANNELS, 3, 3, 3)) / 5,
        **{name: random.normal(size=CHANNELS) for name in ("bias", "mean")},
        **{name: random.uniform(0.5, 2, CHANNELS) for name in ("scale", "var")},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    return _file(nodes, SMALL.shape, [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()])


def identity(shape: tuple[int, ...]) -> bytes:
    """An ONNX file that gives back what it gets."""
    from onnx import helper

    return _file([helper.make_node("Identity", ["x"], ["y"])], shape, [])


def _file(nodes: list[Any], shape: tuple[int, ...], weights: list[Any]) -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name in "xy")
    graph = helper.make_graph(nodes, "benchmark", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
