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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from normserve_models import draw, graph, precision, runtime, value_types, verify
from normserve_models.constants import FLOATS, rounded
from normserve_models.measure import FOLDED, UNFOLDED, Allowance, Measure, finite
from normserve_models.reference import Reference, widened
from normserve_models.report import OutputError
from normserve_models.runtime import ProofError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from normserve_models.draw import Batch
    from normserve_models.kernels import Array
    from normserve_models.verify import Progress

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
    plain = runtime.session(source)
    allowance = Allowance(dtype, tolerance)
    with tempfile.TemporaryDirectory() as directory:
        twin = _unfolded(source, dtype, Path(directory))
        pairs = zip(_runtimes(twin, dtype, plain), _runtimes(converted, dtype, plain), strict=True)
        judges = [_Judge(before, after, allowance) for before, after in pairs]
        reference = Reference(graph.load(source))
        _look_at(judges, reference, draw.drawn(plain, verify.ROUNDS), progress)
        if samples is not None:
            _look_at(judges, reference, draw.given(plain, samples))
        if any(judge.miss(dtype) for judge in judges):
            _look_at(judges, reference, draw.drawn(plain, verify.MORE_ROUNDS))
    for judge in judges:
        if miss := judge.miss(dtype):
            raise ProofError(miss)
    return judges[0].errors()


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
        return [emulation] if dtype is ir.DataType.BFLOAT16 else [emulation, runtime.session(path)]
    except graph.SourceError as error:
        raise ProofError(str(error)) from error


def _look_at(judges: list[_Judge], reference: Reference, batches: Iterable[Batch], progress: Progress = None) -> None:
    for number, batch in enumerate(batches):
        wanted = reference.run(batch, verify.part(progress, number, len(verify.ROUNDS)))
        for judge in judges:
            judge.look_at(batch, wanted)


class _Judge:
    """Holds how far both files are off, run in one way."""

    def __init__(self, before: Any, after: Any, allowance: Allowance) -> None:
        self._runtimes = {UNFOLDED: before, FOLDED: after}
        self._outputs = {output.name: Measure(allowance) for output in before.get_outputs()}

    def look_at(self, batch: Batch, wanted: Mapping[str, Array]) -> None:
        names = list(self._outputs)
        for which, opened in self._runtimes.items():
            for name, got in zip(names, runtime.run(opened, names, batch), strict=True):
                self._outputs[name].look_at(which, got, wanted[name])

    def errors(self) -> list[OutputError]:
        return [
            OutputError(name, *map(finite, (measure.folded, measure.unfolded, measure.bound)))
            for name, measure in self._outputs.items()
        ]

    def miss(self, dtype: ir.DataType) -> str | None:
        kind = dtype.name.lower()
        for name, measure in self._outputs.items():
            if not np.isfinite(measure.folded):
                largest = float(ml_dtypes.finfo(dtype.numpy()).max)  # type: ignore[no-untyped-call] # untyped upstream
                return (
                    f"output {name!r} is not finite in {kind} where it is in float64: "
                    f"a value on the way is larger than {kind}'s largest, {largest:.6g}"
                )
            for miss in measure.misses():
                return f"in {kind}, output {name!r}{miss}"
        return None


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
