"""`normserve normalizers`: the layers that live in a server, whose running statistics many callers share."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from normserve_proto import tensors
from normserve_proto.tensors import Array
from rich.markup import escape
from rich.table import Table

from normserve.cli import arrays, normalizer_layers
from normserve.cli.console import DEFAULT_ADDRESS, Address, InputError, Timeout, connected, out
from normserve.cli.normalizer_layers import Kind
from normserve.layers import Layer, NormalizerInfo
from normserve.normalizer_requests import KEEP, Keep

app = typer.Typer(help="Normalizers: layers in a server, whose running statistics many callers share.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The normalizer's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print it whole, as JSON.")]


@app.command("list")
def list_all(address: Address = DEFAULT_ADDRESS, as_json: AsJson = False, timeout: Timeout = None) -> None:
    """List a server's normalizers: layer, mode, and how many updates there have been.

    [bold]Example[/bold]

    normserve normalizers list
    """
    with connected(address) as client:
        found = client.normalizers(timeout=timeout)
    if as_json:
        typer.echo(json.dumps([_jsonable(info) for info in found]))
    else:
        out.print(_table(found))


@app.command()
def get(name: Name, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False, timeout: Timeout = None) -> None:
    """Print a normalizer with its state.

    [bold]Examples[/bold]

    normserve normalizers get obs

    normserve normalizers get obs --json | jq .state.running_mean.data
    """
    with connected(address) as client:
        normalizer = client.normalizer(name)
        info, state = normalizer.get(timeout=timeout), normalizer.state_dict(timeout=timeout)
    if as_json:
        described = {key: arrays.described(array) for key, array in state.items()}
        typer.echo(json.dumps(_jsonable(info) | {"state": described}))
        return
    out.print(_table([info]))
    out.print(_state_table(state))


@app.command()
def create(
    name: Name,
    kind: Annotated[Kind, typer.Argument(metavar="LAYER", help="batch_norm, instance_norm or running_norm.")],
    features: Annotated[int | None, typer.Option(metavar="C", help="Channels.", show_default=False)] = None,
    dimensions: Annotated[int | None, typer.Option(help="1, 2 or 3, as in BatchNorm2d; 0 for any rank.")] = None,
    shape: Annotated[str | None, typer.Option(metavar="N,N,…", help="Extents of one sample of a running_norm.")] = None,
    eps: Annotated[float | None, typer.Option(help="Added to the variance.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Share of a batch in the running statistics.")] = None,
    cumulative: Annotated[bool, typer.Option("--cumulative", help="Average over all batches: torch's momentum=None.")] = False,
    affine: Annotated[bool | None, typer.Option(help="With weight and bias.", show_default=False)] = None,
    track_running_stats: Annotated[bool | None, typer.Option(help="With running statistics.", show_default=False)] = None,
    clip: Annotated[float | None, typer.Option(help="Largest absolute value of a running_norm's output.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of parameters and statistics: float32 or float64.")] = None,
    evaluation: Annotated[bool, typer.Option("--evaluation", help="Do not train where a call does not say so.")] = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = None,
) -> None:
    """Make a normalizer; options that are not given have PyTorch's defaults.

    [bold]Examples[/bold]

    normserve normalizers create obs running_norm --shape 17 --clip 10

    normserve normalizers create features batch_norm --features 64 --cumulative --no-affine
    """
    given: dict[str, Any] = {"num_features": features, "dimensions": dimensions, "shape": shape, "eps": eps, "clip": clip}
    given |= {"momentum": momentum, "affine": affine, "track_running_stats": track_running_stats, "dtype": dtype}
    layer = normalizer_layers.read(kind, {key: value for key, value in given.items() if value is not None}, cumulative)
    with connected(address) as client:
        info = client.normalizer(name).create(layer, training=not evaluation, timeout=timeout)
    out.print(_table([info]))


@app.command()
def update(
    name: Name,
    momentum: Annotated[float | None, typer.Option(help="Share of a batch in the running statistics.")] = None,
    cumulative: Annotated[bool, typer.Option("--cumulative", help="Average over all batches: torch's momentum=None.")] = False,
    clip: Annotated[float | None, typer.Option(help="Largest absolute value of a running_norm's output.")] = None,
    no_clip: Annotated[bool, typer.Option("--no-clip", help="No largest absolute value.")] = False,
    training: Annotated[
        bool | None,
        typer.Option("--training/--evaluation", help="Whether to train where a call does not say so.", show_default=False),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = None,
) -> None:
    """Change a normalizer's momentum, clip or mode; its state stays as it is.

    [bold]Examples[/bold]

    normserve normalizers update features --evaluation

    normserve normalizers update features --momentum 0.01
    """
    with connected(address) as client:
        info = client.normalizer(name).update(
            momentum=_change("--momentum", momentum, "--cumulative", nothing=cumulative),
            clip=_change("--clip", clip, "--no-clip", nothing=no_clip),
            training=training,
            timeout=timeout,
        )
    out.print(_table([info]))


@app.command()
def delete(name: Name, address: Address = DEFAULT_ADDRESS, timeout: Timeout = None) -> None:
    """Delete a normalizer with its state.

    [bold]Example[/bold]

    normserve normalizers delete obs
    """
    with connected(address) as client:
        client.normalizer(name).delete(timeout=timeout)
    out.print(f"{name} is deleted", markup=False)


@app.command("export")
def export_snapshot(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="Where it goes.")],
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = None,
) -> None:
    """Write all of a normalizer into one safetensors file.

    [bold]Example[/bold]

    normserve normalizers export obs obs.safetensors
    """
    with connected(address) as client:
        snapshot = client.normalizer(name).snapshot(timeout=timeout)
    _write(file, snapshot)
    out.print(f"{name} is in {file}", markup=False, soft_wrap=True)


@app.command("import")
def import_snapshot(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="What `export` wrote.")],
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = None,
) -> None:
    """Make a normalizer of a safetensors file, with the layer, mode and state that are in it.

    [bold]Example[/bold]

    normserve normalizers import obs obs.safetensors --address gpu-2:8001
    """
    try:
        snapshot = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
    with connected(address) as client:
        info = client.normalizer(name).restore(snapshot, timeout=timeout)
    out.print(_table([info]))


def _change(option: str, value: float | None, off: str, *, nothing: bool) -> float | Keep | None:
    """What two options that exclude each other say of one value."""
    if nothing and value is not None:
        raise InputError(f"{off} and {option} exclude each other")
    return value if nothing or value is not None else KEEP


def _write(file: Path, content: bytes) -> None:
    """Writes a file whole or not at all: a full disk leaves the one that was there."""
    if not file.name:
        raise InputError(f"{file}: Is a directory")
    beside = file.with_name(f".{file.name}.part")
    try:
        beside.write_bytes(content)
        beside.replace(file)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise InputError(f"{file}: {error.strerror}") from error


def _table(found: Iterable[NormalizerInfo]) -> Table:
    table = Table("normalizer", "layer", "mode", "updates", "changed")
    for column in table.columns:
        column.overflow = "fold"
    for info in found:
        mode = "training" if info.training else "evaluation"
        changed = info.update_time.isoformat(" ", "seconds")
        table.add_row(escape(info.name), escape(_described(info.layer)), mode, str(info.sequence), changed)
    return table


def _state_table(state: Mapping[str, Array]) -> Table:
    table = Table("state", "datatype", "shape", "elements")
    for name, array in state.items():
        table.add_row(escape(name), tensors.datatype_of(array), escape(str(list(array.shape))), escape(arrays.summary(array)))
    return table


def _described(layer: Layer) -> str:
    values = ", ".join(f"{field.name}={_text(getattr(layer, field.name))}" for field in fields(layer))
    return f"{type(layer).__name__.removesuffix('Layer')}({values})"


def _jsonable(info: NormalizerInfo) -> dict[str, Any]:
    layer = {"kind": normalizer_layers.kind_of(info.layer)} | asdict(info.layer)
    if "dtype" in layer:
        layer["dtype"] = _text(layer["dtype"])
    times = {name: getattr(info, name).isoformat() for name in ("create_time", "update_time")}
    return {"name": info.name, "layer": layer, "training": info.training, "etag": info.etag, "sequence": info.sequence} | times


def _text(value: Any) -> str:
    return value.name if isinstance(value, np.dtype) else str(value)
