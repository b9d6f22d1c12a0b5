"""What do 16 bits cost in accuracy and save in bytes, folded first and not folded?

Each network of the zoo is converted as it is and after folding. Both are judged against the float32 source in float64,
emulated: each result is rounded to the type, and everything between is float64. Every figure is the same on each run.

    python benchmarks/precision.py                                   # the digits network, seconds
    python benchmarks/precision.py digits resnet50                   # ResNet-50 takes some minutes
    python benchmarks/precision.py digits --repository models/repository
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
from normserve_models import graph, precision, runtime
from normserve_models.fold import fold
from normserve_models.precision_proof import Emulation, prove_precision
from normserve_models.zoo import build, digits_data
from rich.console import Console
from rich.table import Table

DTYPES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
HEADER = (
    "model",
    "type",
    "error folded",
    "error unfolded",
    "bound",
    "MB",
    "subnormal weights",
    "held-out digits named rightly",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["digits"], help=", ".join(build.NETWORKS))
    parser.add_argument("--repository", type=Path, help="where the networks are, or are built; by default thrown away")
    options = parser.parse_args()
    table = Table(*HEADER)
    with tempfile.TemporaryDirectory() as directory:
        repository = options.repository or Path(directory) / "repository"
        build.main(["--repository", str(repository), *options.models])
        for name in options.models:
            for row in measure(name, repository / name / "1" / "model.onnx", Path(directory)):
                table.add_row(*row)
    Console(width=160).print(table)


def measure(name: str, source: Path, directory: Path) -> Iterator[tuple[str, ...]]:
    yield name, "float32", "", "", "", megabytes(source), "", accuracy(name, source, None)
    for dtype in DTYPES:
        model = graph.load(source)
        fold(model)
        done = precision.convert(model, dtype, {})
        path = directory / f"{name}.{dtype.name}.onnx"
        graph.save(model, path, f"{path.name}.data")
        for error in prove_precision(source, path, dtype):
            figures = (f"{figure:.2e}" for figure in (error.folded, error.unfolded, error.bound) if figure is not None)
            yield name, dtype.name.lower(), *figures, megabytes(path), str(done.subnormal), accuracy(name, source, path)


def megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.3g}"


def accuracy(name: str, source: Path, converted: Path | None) -> str:
    if name != "digits":
        return ""
    images, labels = digits_data.held_out()
    plain = runtime.session(source)
    opened = plain if converted is None else Emulation(graph.load(converted), plain)
    [logits] = opened.run(["logits"], {"image": images})
    return f"{int(np.sum(logits.argmax(1) == labels))} of {len(labels)}"


if __name__ == "__main__":
    main()
