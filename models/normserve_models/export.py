"""PyTorch module -> ONNX file that still holds its batch norms, with a dynamic batch.

torch's exporter optimises and folds in float32 when it is let, so it is told not to: folding is this package's work, in
float64 and with a proof. It also turns a batch norm in training mode silently into an eval one, so the module is
looked at first. What it writes as arithmetic on constants, such as a missing bias, becomes a constant: at run time that
arithmetic would cost a convolution its fusion with what follows.
"""

from __future__ import annotations

import copy
import itertools
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from normserve_models import atomic, rewrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from torch import nn

    from normserve_models.normalize_input import Normalization

BATCH = "batch"
EXAMPLE_BATCH = 2  # torch.export takes an example of 1 for a constant

DTYPES = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}


class ExportError(ValueError):
    """The module cannot be exported as it is; the message says what to change."""


def export(
    module: nn.Module,
    inputs: Mapping[str, Any],
    path: Path,
    *,
    outputs: Sequence[str] | None = None,
    opset: int | None = None,
    normalization: Normalization | None = None,
) -> None:
    """Write `module` as an unoptimised ONNX file whose first dimension is the symbolic `batch` everywhere.

    Args:
        module: The network, in eval mode.
        inputs: An example of each input in the order of `forward`, by the name that the file shall have: an array, a
            tensor, or (datatype, dims) such as ("FP32", (-1, 3, 224, 224)), where the first -1 is the batch.
        path: Where to write. An existing file is replaced; nothing is left where the export fails.
        outputs: The names of the outputs; where None `output`, or `output_0`, `output_1`, ... where there are several.
        opset: The opset of the file; torch's default where None.
        normalization: What goes in front of the module's input; folding moves it into the first layer.

    Raises:
        NormalizationError: The normalization does not fit the input.
        ExportError: A batch norm is in training mode (it is named), an input is not usable, torch cannot export the
            module, a parameter is not initialized, a batch norm got lost on the way, or an input or output lacks the batch.
    """
    refuse_training(module)
    _refuse_uninitialized(module)
    module = without_parametrizations(module)
    examples = tuple(example(name, given) for name, given in inputs.items())
    program = _trace(module, examples)
    outputs = _output_names(program) if outputs is None else outputs
    written = _to_onnx(program, list(inputs), outputs, opset)
    _check(program, written.model, outputs)
    rewrite.compute_constants(written.model)
    if normalization is not None:
        normalization.insert(written.model)
    with atomic.new_file(path) as temporary:
        written.save(temporary)


def publish(
    module: nn.Module,
    inputs: Mapping[str, Any],
    model: Path,
    *,
    outputs: Sequence[str] | None = None,
    normalization: Normalization | None = None,
) -> Path:
    """Export `module` as the next version of a model of the repository; a version once there is never touched.

    Args:
        module: As in `export`.
        inputs: As in `export`.
        model: The folder of the model, REPOSITORY/NAME.
        outputs: As in `export`.
        normalization: As in `export`.

    Returns:
        The file that was written, `model`/VERSION/model.onnx.

    Raises:
        ExportError, NormalizationError: As in `export`.
        OSError: The repository cannot be written, or another process has published the same version meanwhile.
    """
    taken = [int(path.name) for path in model.glob("*") if path.name.isdecimal()]
    version = model / str(max(taken, default=0) + 1)
    with atomic.new_directory(version) as directory:
        export(module, inputs, directory / "model.onnx", outputs=outputs, normalization=normalization)
    return version / "model.onnx"


def refuse_training(module: nn.Module) -> None:
    """Raise ExportError, naming them, where batch norms are in training mode."""
    guilty = [name or "the module itself" for name, child in module.named_modules() if _trains(child)]
    if guilty:
        raise ExportError(
            f"batch norm in training mode: {_listed(guilty)}. An export holds running statistics only: "
            "call .eval() on the module first"
        )


def _trains(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.training


def _refuse_uninitialized(module: nn.Module) -> None:
    values = itertools.chain(module.named_parameters(), module.named_buffers())
    guilty = [name for name, value in values if torch.nn.parameter.is_lazy(value)]
    if guilty:
        raise ExportError(f"not initialized: {_listed(guilty)}. Run the module once on an example first")


def without_parametrizations(module: nn.Module) -> nn.Module:
    """Return a copy whose weights are plain tensors where `torch.nn.utils.parametrize` computes them, as weight norm does.

    In eval mode they are constants, and some are computed by what ONNX has not, such as a matrix exponential. A module without
    any, or one that cannot be copied, is returned itself.
    """
    if not any(map(parametrize.is_parametrized, module.modules())):
        return module
    try:
        plain = copy.deepcopy(module)
    except Exception:  # noqa: BLE001 - a module may hold anything; the exporter writes what it can of the computation
        return module
    for child in plain.modules():
        if parametrize.is_parametrized(child):
            _freeze(child)
    return plain


def _freeze(module: nn.Module) -> None:
    """Give a parametrized module its weights as they are now; torch's own way would take the originals' class apart too."""
    names = list(module.parametrizations)  # type: ignore[arg-type] # a ModuleDict
    tensors = {name: getattr(module, name).detach() for name in names}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)


def example(name: str, given: Any) -> torch.Tensor:
    """Return an example input of at least two rows, from an array, a tensor or (datatype, dims).

    Raises:
        ExportError: Neither of these, an unknown datatype, or dims that are not (-1, positive, positive, ...).
    """
    if isinstance(given, tuple):
        return _drawn(name, *given)
    tensor = given if isinstance(given, torch.Tensor) else torch.from_numpy(np.asarray(given))
    if tensor.ndim == 0 or 0 in tensor.shape:
        raise ExportError(f"input {name!r}: wanted an example with a batch dimension, got the shape {list(tensor.shape)}")
    return tensor if len(tensor) >= EXAMPLE_BATCH else torch.cat([tensor] * EXAMPLE_BATCH)


def _drawn(name: str, datatype: str, dims: Sequence[int]) -> torch.Tensor:
    if datatype not in DTYPES:
        raise ExportError(f"input {name!r}: unknown datatype {datatype!r}, wanted one of {', '.join(DTYPES)}")
    if not dims or dims[0] != -1 or any(size < 1 for size in dims[1:]):
        raise ExportError(f"input {name!r}: wanted dims of the form -1,3,224,224 (-1 is the batch), got {list(dims)}")
    dtype = DTYPES[datatype]
    shape = (EXAMPLE_BATCH, *dims[1:])
    return torch.rand(shape).to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)


def _trace(module: nn.Module, examples: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    try:
        with _quiet():  # of weights that a hook sets before each call, among others
            program = torch.export.export(module, examples, dynamic_shapes=_batched(len(examples)))
    except Exception as error:
        raise ExportError(f"torch cannot export the module: {_first_line(error)}") from error
    guilty = [_origin(node) for node in _batch_norms(program) if _updates_statistics(node)]
    if guilty:
        raise ExportError(f"batch_norm called with training=True: {_listed(guilty)}. An export holds running statistics only")
    return program


def _batched(count: int) -> tuple[dict[int, Any], ...]:
    return tuple({0: torch.export.Dim(BATCH)} for _ in range(count))


def _batch_norms(program: torch.export.ExportedProgram) -> list[torch.fx.Node]:
    return [node for node in program.graph.nodes if node.target is torch.ops.aten.batch_norm.default]


def _updates_statistics(node: torch.fx.Node) -> bool:
    # aten.batch_norm(input, weight, bias, running_mean, running_var, training, ...): training without running
    # statistics is what track_running_stats=False means in eval mode, and is exported faithfully.
    return bool(node.args[5]) and node.args[3] is not None


def _origin(node: torch.fx.Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0] or "the module itself") if stack else node.name


def _to_onnx(
    program: torch.export.ExportedProgram, inputs: list[str], outputs: Sequence[str], opset: int | None
) -> torch.onnx.ONNXProgram:
    with _quiet():
        try:
            written = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                verbose=False,
                input_names=inputs,
                output_names=outputs,
                opset_version=opset,
                dynamic_shapes=_batched(len(inputs)),
            )
        except Exception as error:
            raise ExportError(f"torch cannot write the module as ONNX: {_first_line(error)}") from error
    assert written is not None  # noqa: S101 - dynamo=True returns a program
    return written


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch's exporter says about its own internals, such as a torchvision that is not installed."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _output_names(program: torch.export.ExportedProgram) -> list[str]:
    """Return names that a caller can make sense of: torch's own tell of its tracing, such as getitem_6."""
    count = len(program.graph_signature.user_outputs)
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def _check(program: torch.export.ExportedProgram, model: ir.Model, outputs: Sequence[str]) -> None:
    wanted = len(_batch_norms(program))
    found = sum(node.op_type == "BatchNormalization" for node in model.graph.all_nodes())
    if found != wanted:
        raise ExportError(f"the module calls {wanted} batch norms and the file has {found}: the exporter lost some")
    if len(outputs) != len(model.graph.outputs):
        raise ExportError(f"{len(outputs)} output names for {len(model.graph.outputs)} outputs")
    for value in (*model.graph.inputs, *model.graph.outputs):
        shape = value.shape
        if not shape or str(shape[0]) != BATCH:
            raise ExportError(f"{value.name!r} has the shape {shape}, wanted the dimension {BATCH!r} first")


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # torch says in front of it which of its own steps it was
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
