"""The proof of a file in float16 or bfloat16: its answers against those of the float32 source in float64.

The converted file may be off by at most a floor, as in `verify`, or by twice what the source is off when it is converted by the
same function but not folded, whichever is more.

It is judged twice. First emulated: each result rounded once to the type that the file gives it, everything between in float64,
as hardware comes close to that multiplies 16 bits and sums in 32. Then, for float16, as onnxruntime runs it on the CPU: where
that has no kernel for float16 it computes in float32 from node to node, and a value of 70000 goes through. It does not even
load a file of bfloat16, be it for an Add.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from normserve_models import draw, graph, precision, value_types, verify
from normserve_models.constants import FLOATS, rounded
from normserve_models.reference import Reference, widened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from normserve_models.draw import Batch
    from normserve_models.kernels import Array
    from normserve_models.report import OutputError

PROOFS = {
    ir.DataType.FLOAT16: "emulated: each result rounded to float16; and run by onnxruntime on the CPU",
    ir.DataType.BFLOAT16: "emulated: each result rounded to bfloat16",
}


def prove_precision(
    source: Path,
    converted: Path,
    dtype: ir.DataType,
    *,
    tolerance: float | None = None,
    samples: Mapping[str, Array] | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[OutputError]:
    """Compare a converted file with its source, both against the source in float64.

    Args:
        source: The file as it was, of float32.
        converted: What it has become, with the same inputs and outputs.
        dtype: FLOAT16 or BFLOAT16.
        tolerance: The largest relative error allowed, in place of the bound.
        samples: An array for each input, by name, to prove on beside the drawn ones.
        progress: Called with the share done, 0 to 1.

    Returns:
        The errors of the emulation, an entry an output: `folded` of the converted file, `unfolded` of the source converted as
        it is.

    Raises:
        ProofError: An output, or a channel of one, is off by more than its bound, or is not finite where the reference is; or
            the converted file does not run.
        SourceError: onnxruntime cannot load the source.
        SamplesError: The samples do not fit, or no inputs can be drawn.
        NoReferenceError: The source holds an operator that has no float64 reference.
    """
    plain = verify.session(source)
    with tempfile.TemporaryDirectory() as directory:
        twin = _unfolded(source, dtype, Path(directory))
        pairs = zip(_runtimes(twin, dtype, plain), _runtimes(converted, dtype, plain), strict=True)
        reference = _Shared(graph.load(source))
        judges = [verify.Judge(before, after, reference, dtype, tolerance) for before, after in pairs]
        _look_at(judges, draw.drawn(plain, verify.ROUNDS), progress)
        if samples is not None:
            _look_at(judges, draw.given(plain, samples))
        if any(_miss(judge, dtype) for judge in judges):
            _look_at(judges, draw.drawn(plain, verify.MORE_ROUNDS))
    for judge in judges:
        if miss := _miss(judge, dtype):
            raise verify.ProofError(miss)
    return _errors(judges[0], dtype)


def _unfolded(source: Path, dtype: ir.DataType, directory: Path) -> Path:
    """Write the source, converted and not folded; where it cannot be converted it stands for itself."""
    model = graph.load(source)
    try:
        precision.convert(model, dtype, {})
    except precision.PrecisionError:
        return source
    graph.save(model, directory / "unfolded.onnx", "unfolded.data")
    return directory / "unfolded.onnx"


def _runtimes(path: Path, dtype: ir.DataType, plain: Any) -> list[Any]:
    try:
        emulation = Emulation(graph.load(path), plain)
        return [emulation] if dtype is ir.DataType.BFLOAT16 else [emulation, verify.session(path)]
    except graph.SourceError as error:
        raise verify.ProofError(str(error)) from error


def _look_at(judges: list[verify.Judge], batches: Iterable[Batch], progress: Callable[[float], None] | None = None) -> None:
    for number, batch in enumerate(batches):
        report = None if progress is None else partial(_report, progress, number / len(verify.ROUNDS))
        for judge in judges:
            judge.look_at([batch], report)


def _report(progress: Callable[[float], None], done: float, share: float) -> None:
    progress(min(1.0, done + share))


class _Shared(Reference):
    """Evaluates a batch once, however many judges ask for it in a row."""

    _asked: Mapping[str, Array] | None = None
    _found: dict[str, Array]

    def run(self, inputs: Mapping[str, Array], progress: Callable[[float], None] | None = None) -> dict[str, Array]:
        if inputs is not self._asked:
            self._found = super().run(inputs, progress)
            self._asked = inputs
        return self._found


class Emulation:
    """Runs a model as hardware would that computes each node exactly and rounds its results to the types of the file.

    Bodies of control flow are not rounded inside, only what they give.

    Args:
        model: The model, each of whose values has a type.
        interface: A session that has the same inputs and outputs.
    """

    def __init__(self, model: ir.Model, interface: Any) -> None:
        value_types.infer(model)
        self._reference = _Rounding(model)
        self.get_inputs = interface.get_inputs
        self.get_outputs = interface.get_outputs

    def run(self, names: list[str], batch: Batch) -> list[Array]:
        """Return the outputs of those names, floats as float64."""
        answers = self._reference.run(batch)
        return [answers[name] for name in names]


class _Rounding(Reference):
    def _run(self, node: ir.Node, held: dict[ir.Value, Array]) -> list[Array]:
        results = super()._run(node, held)
        return [_rounded(array, value.dtype) for array, value in zip(results, node.outputs, strict=False)]


def _rounded(array: Array, dtype: ir.DataType | None) -> Array:
    is_float = isinstance(array, np.ndarray) and array.dtype == np.float64
    return np.asarray(widened(rounded(array, dtype))) if is_float and dtype in FLOATS else array


def _errors(judge: verify.Judge, dtype: ir.DataType) -> list[OutputError]:
    """Return the figures; where the unfolded file overflows, the floor alone is the bound."""
    floor = verify.FLOORS[dtype]
    return [replace(error, bound=floor) if error.bound is None else error for error in judge.errors()]


def _miss(judge: verify.Judge, dtype: ir.DataType) -> str | None:
    name = dtype.name.lower()
    for error in _errors(judge, dtype):
        if error.folded is None:
            largest = float(ml_dtypes.finfo(dtype.numpy()).max)  # type: ignore[no-untyped-call] # untyped upstream
            return (
                f"output {error.name!r} is not finite in {name} where it is in float64: "
                f"a value on the way is larger than {name}'s largest, {largest:.6g}"
            )
        if error.bound is not None and error.folded > error.bound:
            return (
                f"output {error.name!r}: in {name} the folded file is off by {error.folded:.3g}, "
                f"the unfolded one by {_figure(error.unfolded)}, allowed is {error.bound:.3g}"
            )
    return next((f"in {name}, {miss}" for miss in judge.misses()), None)


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
