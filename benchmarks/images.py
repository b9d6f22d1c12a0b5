"""What do bytes as input and weights in float16 save, and what do they cost in accuracy?

A network is folded three ways: as it is, with the normalization of bytes folded into its first layer, and that in float16.
Errors are those of the proofs: of the folded file against float64, each on the input that it takes, and float16 emulated. No
times, so every figure is the same on each run.

    python benchmarks/images.py              # the digits network, seconds
    python benchmarks/images.py resnet50     # some minutes
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
from normserve_models import runtime
from normserve_models.fold_file import Wanted, fold_file
from normserve_models.normalize_input import Normalization
from normserve_models.report import Report
from normserve_models.zoo import build, digits_data
from normserve_proto import open_inference_pb2 as pb
from serving_tools.report import Sheet

COLUMNS = ("input", "weights", "request, bytes", "file, MB", "error", "bound", "held-out digits named rightly")
SHAPES = {"digits": (1, 8, 8), "resnet50": (3, 224, 224)}
# In the units of the bytes: scikit-learn's digits go to 16, photographs to 255.
NORMALIZATIONS = {
    "digits": Normalization([0.0], [16.0], ir.DataType.UINT8),
    "resnet50": Normalization([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], ir.DataType.UINT8),
}


def forms(name: str) -> list[tuple[str, str, Wanted]]:
    """Input, weights, and what a fold has to do for them."""
    normalization = NORMALIZATIONS[name]
    return [
        ("FP32", "float32", Wanted()),
        ("UINT8", "float32", Wanted(normalization)),
        ("UINT8", "float16", Wanted(normalization, ir.DataType.FLOAT16)),
    ]


def rows(name: str, folder: Path) -> Iterator[list[str]]:
    build.main(["--repository", str(folder), name])
    source = folder / name / "1" / "model.onnx"
    for number, (datatype, weights, wanted) in enumerate(forms(name)):
        target = folder / str(number) / "model.onnx"
        target.parent.mkdir()
        error, bound = worst(fold_file(source, target, wanted))
        megabytes = sum(file.stat().st_size for file in target.parent.iterdir()) / 1e6
        size = f"{request_bytes(name, datatype):,}"
        yield [datatype, weights, size, f"{megabytes:.3g}", f"{error:.1e}", f"{bound:.0e}", accuracy(name, target, datatype)]


def worst(report: Report) -> tuple[float, float]:
    """The largest error of an output, in the type that the file has, and what it may be."""
    errors = report.errors if report.precision is None else report.precision.errors
    return max((error.folded or 0.0, error.bound or 0.0) for error in errors)


def request_bytes(name: str, datatype: str) -> int:
    """Size of a ModelInferRequest with one image."""
    elements = int(np.prod(SHAPES[name]))
    message = pb.ModelInferRequest(model_name=name, raw_input_contents=[bytes(elements * (1 if datatype == "UINT8" else 4))])
    message.inputs.add(name="image", datatype=datatype, shape=(1, *SHAPES[name]))
    return message.ByteSize()


def accuracy(name: str, path: Path, datatype: str) -> str:
    """By onnxruntime on the CPU; of the digits network alone, whose weights are trained."""
    if name != "digits":
        return ""
    images, labels = digits_data.held_out()
    sent = np.round(images * 16).astype(np.uint8) if datatype == "UINT8" else images
    [logits] = runtime.session(path).run(["logits"], {"image": sent})
    return f"{int(np.sum(logits.argmax(1) == labels))} of {len(labels)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["digits"], help=", ".join(SHAPES))
    for name in parser.parse_args().networks:
        with tempfile.TemporaryDirectory() as folder:
            print(Sheet(name, COLUMNS, list(rows(name, Path(folder)))).markdown())


if __name__ == "__main__":
    main()
