"""Public architectures, written down from the papers, as files for the folding benchmark: a module each, imported on demand.

A module has INPUTS, (datatype, dims) by name, and either `network()`, which returns it in eval mode, or `shipped()`, which
returns an ONNX file that came with a package.
"""

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

NAMES = (
    "digits",
    "crepe",
    "text_direction",
    "resnet50",
    "resnet50_v2",
    "repvgg",
    "mobileone",
    "densenet121",
    "googlenet_bn",
    "efficientnet_b0",
    "shufflenet_v2",
    "arcface",
    "convmixer",
    "levit",
    "pointnet",
    "xvector",
    "unet",
)  # fmt: skip

SEED = 0
Inputs = dict[str, tuple[str, tuple[int, ...]]]


def inputs(name: str) -> Inputs:
    """Return the inputs of a network, (datatype, dims) by name; the first of dims is -1, the batch."""
    given: Inputs = _module(name).INPUTS
    return given


def network(name: str) -> Any:
    """Return a network as a torch module in eval mode, the same each time on one version of torch.

    Raises:
        PackageNotFoundError: The package that brings the weights is not installed.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _module(name).network()


def write(name: str, path: Path) -> None:
    """Write a network as an ONNX file that still holds its batch norms, and nothing that only an exporter's habit put there.

    torch's unoptimised export computes a bias of zeros for each convolution without one. Other tools take that for a bias that
    is no constant, and leave the batch norm; they shall not be judged by it, so constants are computed here.

    Raises:
        PackageNotFoundError: The package that brings the weights is not installed.
    """
    import onnx_ir as ir
    from normserve_models.export import export
    from onnxscript import optimizer

    module = _module(name)
    if hasattr(module, "shipped"):
        shutil.copyfile(module.shipped(), path)
        return
    export(network(name), module.INPUTS, path)
    model = ir.load(path)
    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)
    ir.save(model, path)


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")
