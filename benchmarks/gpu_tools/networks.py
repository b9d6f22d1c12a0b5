"""The networks, as they are recommended for images: bytes in, their normalization folded, weights in float16."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import Array
from serving_tools.models import small_network

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of bytes


@dataclass(frozen=True)
class Network:
    """A network that takes images.

    Attributes:
        name: in the repository.
        input_name: of its input.
        shape: of one image.
        module: makes it for torch, in eval mode, [N, *shape] of float32 to anything.
        source: writes it as an ONNX file with float32 input and its batch norms.
    """

    name: str
    input_name: str
    shape: tuple[int, ...]
    module: Callable[[], Any]
    source: Callable[[Path], None]

    def images(self, count: int) -> Array:
        """The same bytes each time, [count, *shape]."""
        return np.random.default_rng(0).integers(0, 256, (count, *self.shape), np.uint8)

    def request(self, count: int) -> bytes:
        """A ModelInferRequest with so many images."""
        images = self.images(count)
        message = pb.ModelInferRequest(model_name=self.name, raw_input_contents=[images.tobytes()])
        message.inputs.add(name=self.input_name, datatype="UINT8", shape=images.shape)
        return bytes(message.SerializeToString())

    def write(self, repository: Path, buckets: tuple[int, ...]) -> Path:
        """Writes the network into a repository, folded and in float16, for batches of up to the last of `buckets`."""
        import onnx_ir as ir
        from normserve_models import graph, precision, rewrite
        from normserve_models.fold import fold_unrounded
        from normserve_models.normalize_input import Normalization

        path = repository / self.name / "1" / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.source(path)
        model = graph.load(path)
        known = Normalization(MEAN, STD, ir.DataType.UINT8).insert(model)
        _, exact = fold_unrounded(model, known)
        unrounded = dict(exact)
        rewrite.round_exact(exact)
        precision.convert(model, ir.DataType.FLOAT16, unrounded)
        path.unlink()
        graph.save(model, path, "model.data")
        sizes = ",".join(map(str, buckets))
        config = f'max_batch_size: {buckets[-1]}\nparameters {{ key: "batch_buckets" value: {{ string_value: "{sizes}" }} }}\n'
        (repository / self.name / "config.pbtxt").write_text(f"{config}dynamic_batching {{}}\n")
        return path


def resnet50() -> Network:
    """ResNet-50, of seeded weights."""
    from normserve_models.zoo import resnet50 as zoo

    def source(path: Path) -> None:
        from normserve_models.export import export

        export(zoo.load(), zoo.INPUTS, path)

    return Network("resnet50", "image", (3, 224, 224), zoo.load, source)


def small() -> Network:
    """A convolution, a batch norm and a ReLU, for a rehearsal; torch's weights are others."""

    def module() -> Any:
        from torch import nn

        return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()).eval()

    def source(path: Path) -> None:
        path.write_bytes(small_network())

    return Network("small", "x", (3, 32, 32), module, source)
