"""`normserve normalize`: one of PyTorch's normalization operators on arrays from files."""

import inspect
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from normserve_proto.tensors import Array

from normserve.cli import arrays
from normserve.cli.console import DEFAULT_ADDRESS, Address, InputError, Timeout, connected
from normserve.client import Client
from normserve.results import NormResult


class Operator(StrEnum):
    """The operators, by torch.nn.functional's names."""

    BATCH_NORM = "batch_norm"
    LAYER_NORM = "layer_norm"
    INSTANCE_NORM = "instance_norm"
    GROUP_NORM = "group_norm"
    RMS_NORM = "rms_norm"
    LOCAL_RESPONSE_NORM = "local_response_norm"
    NORMALIZE = "normalize"


File = typer.Option(metavar="FILE.npy", show_default=False)


def normalize(
    operator: Annotated[Operator, typer.Argument(help="By torch.nn.functional's name.")],
    input: Annotated[Path, typer.Option("--input", "-i", metavar="FILE.npy", help="The array to normalize.")],  # noqa: A002
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.npy", help="Where the normalized array goes.")],
    running_mean: Annotated[Path | None, File] = None,
    running_var: Annotated[Path | None, File] = None,
    weight: Annotated[Path | None, File] = None,
    bias: Annotated[Path | None, File] = None,
    normalized_shape: Annotated[str | None, typer.Option(metavar="N,N,…", help="The trailing extents.")] = None,
    num_groups: Annotated[int | None, typer.Option(help="Groups of channels.")] = None,
    size: Annotated[int | None, typer.Option(help="Channels in a window.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Factor of the window's mean square.")] = None,
    beta: Annotated[float | None, typer.Option(help="Exponent of the window.")] = None,
    k: Annotated[float | None, typer.Option("--k", help="Added to the scaled mean square.")] = None,
    p: Annotated[float | None, typer.Option("--p", help="Exponent of the Lp norm; inf for the greatest magnitude.")] = None,
    dim: Annotated[int | None, typer.Option(help="The axis of the Lp norm.")] = None,
    training: Annotated[bool | None, typer.Option("--training", help="Normalize by the batch's statistics.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Share of the batch in the running statistics.")] = None,
    eps: Annotated[float | None, typer.Option(help="Added to the variance; the least divisor of normalize.")] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = None,
) -> None:
    """Normalize an array from a .npy file, as torch.nn.functional does.

    Arguments that are not given have PyTorch's defaults. Running statistics that the call updated are written beside the
    output: OUTPUT.running_mean.npy and OUTPUT.running_var.npy.

    [bold]Examples[/bold]

    normserve normalize layer_norm --input x.npy --normalized-shape 768 --output y.npy

    normserve normalize group_norm --input x.npy --num-groups 8 --weight w.npy --bias b.npy --output y.npy

    normserve normalize normalize --input x.npy --p 1 --dim -1 --output y.npy

    normserve normalize batch_norm --input x.npy --running-mean m.npy --running-var v.npy --training --output y.npy
    """
    files = {"input": input, "running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    loaded = {name: arrays.load(path) for name, path in files.items() if path is not None}
    scalars = {"num_groups": num_groups, "training": training, "momentum": momentum, "eps": eps}
    scalars |= {"size": size, "alpha": alpha, "beta": beta, "k": k, "p": p, "dim": dim}
    given: dict[str, Any] = loaded | {name: value for name, value in scalars.items() if value is not None}
    if normalized_shape is not None:
        given["normalized_shape"] = _extents(normalized_shape)
    arguments = _bind(operator, given)
    with connected(address) as client:
        result = getattr(client, operator)(**arguments, timeout=timeout)
    _write(output, result)


def _bind(operator: Operator, given: dict[str, Any]) -> dict[str, Any]:
    """Completes the arguments with None where PyTorch has no default, and refuses what is not the operator's."""
    parameters = inspect.signature(getattr(Client, operator)).parameters
    for name in given.keys() - parameters.keys():
        raise InputError(f"{operator} takes no {_flag(name)}")
    for name in ("normalized_shape", "num_groups", "size"):
        if name in parameters and name not in given:
            raise InputError(f"{operator} needs {_flag(name)}")
    statistics = dict.fromkeys(parameters.keys() & {"running_mean", "running_var"})
    return statistics | given


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _extents(text: str) -> list[int]:
    try:
        return [int(extent) for extent in text.split(",")]
    except ValueError:
        raise InputError(f"--normalized-shape: wanted integers such as 8,8, got {text!r}") from None


def _write(path: Path, result: Array | NormResult) -> None:
    if not isinstance(result, NormResult):
        arrays.save(path, result)
        return
    arrays.save(path, result.output)
    for name in ("running_mean", "running_var"):
        statistic = getattr(result, name)
        if statistic is not None:
            arrays.save(path.with_suffix(f".{name}.npy"), statistic)
