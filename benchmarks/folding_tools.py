"""What others do with an ONNX file, each in a process of its own: `python benchmarks/folding_tools.py TOOL IN.onnx OUT.onnx`.

Each is used as its own documentation has it for a file that is to be made faster.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import onnx

TOOLS: dict[str, Callable[[Path, Path], None]] = {}


def tool(function: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """Offer a function by its name, which is that of its package."""
    TOOLS[function.__name__] = function
    return function


@tool
def onnxscript(source: Path, target: Path) -> None:
    """Constants, then the default rules, which fold BN into Conv, ConvTranspose and Gemm."""
    from onnxscript import optimizer, rewriter

    model = optimizer.optimize(onnx.load(source))
    onnx.save(rewriter.rewrite(model), target)


@tool
def onnxslim(source: Path, target: Path) -> None:
    """All of its passes."""
    import onnxslim as package

    onnx.save(package.slim(onnx.load(source)), target)


@tool
def onnxsim(source: Path, target: Path) -> None:
    """All of its passes."""
    import onnxsim as package

    model, _ = package.simplify(onnx.load(source))
    onnx.save(model, target)


def main() -> None:
    """Run one tool."""
    name, source, target = sys.argv[1:]
    TOOLS[name](Path(source), Path(target))


if __name__ == "__main__":
    main()
