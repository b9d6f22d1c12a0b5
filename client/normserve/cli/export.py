"""`normserve export`: a PyTorch network into a repository, as an ONNX file that the server folds."""

import importlib
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from normserve.cli import input_normalization
from normserve.cli.console import InputError, needs_extra, out

_INPUT = re.compile(r"(?P<name>[^=\[\]]+)=(?P<datatype>[A-Z0-9]+)\[(?P<dims>-?\d+(,-?\d+)*)\]")
_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

Inputs = dict[str, tuple[str, tuple[int, ...]]]


def export(
    factory: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE.MODULE:FACTORY", help="A function without arguments, or a class, that gives the module."
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Option("--input", "-i", metavar="NAME=DTYPE[DIMS]", help="An input, in the order of forward; once for each."),
    ],
    name: Annotated[str, typer.Option(help="The model's name in the repository.")],
    repository: Annotated[Path, typer.Option(metavar="DIR", help="The folder of models.")],
    outputs: Annotated[
        list[str] | None, typer.Option("--output", "-o", metavar="NAME", help="An output's name; once for each, or for none.")
    ] = None,
    normalization: input_normalization.Texts = None,
    input_dtype: input_normalization.Dtype = None,
) -> None:
    """Export a PyTorch module as the next version of a model.

    Writes DIR/NAME/VERSION/model.onnx, not folded: the server folds what it finds. The first dimension of every input
    is -1, the batch. The module is imported from the installed packages or from the current directory, and has to be in
    eval mode.

    [bold]Examples[/bold]

    normserve export mypackage.nets:resnet --input 'image=FP32[-1,3,224,224]' --name resnet --repository models

    normserve export mypackage.nets:resnet -i 'image=FP32[-1,3,224,224]' --name resnet --repository models --input-dtype uint8
    --input-normalization 'mean=123.675,116.28,103.53 std=58.395,57.12,57.375'

    normserve export train:load -i 'tokens=INT64[-1,128]' -i 'mask=BOOL[-1,128]' -o scores --name text --repository models
    """
    if not _MODEL_NAME.fullmatch(name):
        raise InputError(f"--name: wanted letters, digits, '.', '_' and '-', got {name!r}")
    examples = _parse(inputs)
    with needs_extra("models"):
        from normserve_models import export as exporter
        from normserve_models.normalize_input import NormalizationError
    module = _make(factory)
    try:
        asked = input_normalization.asked(normalization, input_dtype)
        path = exporter.publish(module, examples, repository / name, outputs=outputs, normalization=asked)
    except (exporter.ExportError, NormalizationError, OSError) as error:
        raise InputError(str(error)) from error
    out.print(f"exported {path}", markup=False, soft_wrap=True)


def _parse(texts: list[str]) -> Inputs:
    examples: Inputs = {}
    for text in texts:
        found = _INPUT.fullmatch(text)
        if found is None:
            raise InputError(f"--input: wanted NAME=DTYPE[DIMS] such as image=FP32[-1,3,224,224], got {text!r}")
        if found["name"] in examples:
            raise InputError(f"--input: {found['name']!r} is given twice")
        examples[found["name"]] = found["datatype"], tuple(map(int, found["dims"].split(",")))
    return examples


def _make(factory: str) -> Any:
    """Import and call the factory.

    Raises:
        InputError: There is no such thing, it fails, or it gives no module.
    """
    from torch import nn

    module_name, colon, attribute = factory.partition(":")
    if not (module_name and colon and attribute):
        raise InputError(f"wanted PACKAGE.MODULE:FACTORY, got {factory!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module_name), attribute)()
    except Exception as error:
        raise InputError(f"{factory}: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{factory} gives {type(made).__name__}, wanted a torch.nn.Module")
    return made
