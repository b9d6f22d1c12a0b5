"""Write example networks into a model repository: `python -m normserve_models.zoo.build --repository DIR NAME...`.

Writes DIR/NAME/1/model.onnx, not folded, for each name that lacks it. Says one line for each, and nothing, at no
cost, where nothing is lacking.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from normserve_models import atomic

# name -> the module that holds INPUTS, OUTPUTS and load()
NETWORKS = {
    "digits": "normserve_models.zoo.digits",
    "resnet50": "normserve_models.zoo.resnet50",
}


def main(arguments: list[str] | None = None) -> int:
    """Build what is lacking; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m normserve_models.zoo.build", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="the folder of models")
    parser.add_argument("names", nargs="+", choices=sorted(NETWORKS), metavar="NAME", help=", ".join(NETWORKS))
    options = parser.parse_args(arguments)
    for name in options.names:
        version = options.repository / name / "1"
        if not (version / "model.onnx").exists():
            build(name, version)
            sys.stdout.write(f"built {version / 'model.onnx'}\n")
            sys.stdout.flush()
    return 0


def build(name: str, version: Path) -> None:
    """Write the network `name` as `version`/model.onnx; the directory appears whole.

    Args:
        name: A key of NETWORKS.
        version: The directory to make.

    Raises:
        KeyError: No network has that name.
    """
    from normserve_models.export import export  # noqa: PLC0415 - torch, seconds of import

    network = importlib.import_module(NETWORKS[name])
    with atomic.new_directory(version, exist_ok=True) as directory:
        export(network.load(), network.INPUTS, directory / "model.onnx", outputs=network.OUTPUTS)


if __name__ == "__main__":
    sys.exit(main())
