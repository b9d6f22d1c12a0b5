"""The proof of a fold: both files as onnxruntime runs them, judged against the source in float64.

The error of an output is max |y - r| / max |r| over a batch, r being the reference; of several batches the largest
counts. The folded file may be off by at most twice what the unfolded file is off, or by a floor that is the unit
roundoff of the coarsest float type in the file times a small factor, whichever is more. Comparing with float32 instead
would blame the fold for the errors of what it is compared with. Where an output has an axis of channels, axis 1, each channel
is judged by itself too, against a wider bound that `channels` tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnxruntime

from normserve_models import channels, draw, graph
from normserve_models.channels import Channels
from normserve_models.reference import Reference, widened
from normserve_models.report import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from normserve_models.channels import Miss
    from normserve_models.draw import Batch
    from normserve_models.kernels import Array

# About 16 units of roundoff (2^-53, 2^-24, 2^-11, 2^-8); for double the reference is itself no better than 1e-14.
FLOORS = {
    ir.DataType.DOUBLE: 1e-12,
    ir.DataType.FLOAT: 1e-6,
    ir.DataType.FLOAT16: 8e-3,
    ir.DataType.BFLOAT16: 6e-2,
}
SLACK = 2.0
ROUNDS = range(2)
MORE_ROUNDS = range(2, 10)


class ProofError(Exception):
    """The folded file is not as exact as it has to be; the message names the output or its channel, and both figures."""


def session(path: Path, *, exact_training: bool = False) -> onnxruntime.InferenceSession:
    """Open a model on the CPU, as it will be served.

    Args:
        path: The model.
        exact_training: Switch off an optimiser that makes a batch norm in training mode wrong where two of its
            parameters are equal: onnxruntime shares the constants, and the kernel then overwrites both.

    Raises:
        SourceError: onnxruntime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters comes as an exception; a fallback would print and try the same again
    disabled = ["ConstantSharing"] if exact_training else []
    try:
        return onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled, enable_fallback=0
        )
    except Exception as error:
        raise graph.SourceError(f"{path}: onnxruntime cannot load it: {graph.runtime_reason(error)}") from error


def require_runs(path: Path) -> None:
    """Raise SourceError or SamplesError where onnxruntime cannot load a model, or run it on any input."""
    next(draw.drawn(session(path), ROUNDS))


def prove(
    source: Path,
    folded: Path,
    *,
    tolerance: float | None = None,
    samples: Mapping[str, Array] | None = None,
    progress: Callable[[float], None] | None = None,
    narrow: set[str] | None = None,
) -> list[OutputError]:
    """Compare the folded file with its source, both against float64.

    Args:
        source: The file as it was.
        folded: The file as it is to be served.
        tolerance: The largest relative error allowed, in place of the bound above. The bound of a channel is widened
            to it, but never narrowed.
        samples: An array for each input, by name, to prove on beside the drawn ones.
        progress: Called with the share done, 0 to 1.
        narrow: Takes the operators whose reference is float32, because none is there in float64.

    Returns:
        The errors, an entry an output.

    Raises:
        ProofError: An output, or a channel of one, is off by more than its bound, or the folded file does not run.
        SourceError: onnxruntime cannot load the source.
        SamplesError: The samples do not fit, or no inputs can be drawn.
        NoReferenceError: The source holds an operator that has no reference.
    """
    model = graph.load(source)
    exact = any(node.attributes.get_int("training_mode", 0) for node in graph.batch_norms(model))
    before = session(source, exact_training=exact)
    after = _folded_session(folded, exact=exact)
    reference = Reference(model)
    judge = Judge(before, after, reference, _coarsest(model), tolerance)
    judge.look_at(draw.drawn(before, ROUNDS), progress)
    if samples is not None:
        judge.look_at(draw.given(before, samples))
    if judge.misses():
        # The unfolded file may have been lucky: with few numbers in an output one draw says little about either.
        judge.look_at(draw.drawn(before, MORE_ROUNDS))
    if narrow is not None:
        narrow.update(reference.narrow)
    for miss in judge.misses():
        raise ProofError(miss)
    return judge.errors()


def _folded_session(folded: Path, *, exact: bool) -> onnxruntime.InferenceSession:
    try:
        return session(folded, exact_training=exact)
    except graph.SourceError as error:
        raise ProofError(str(error)) from error


class Judge:
    """Holds the largest error of each output, of both files."""

    def __init__(
        self,
        before: onnxruntime.InferenceSession,
        after: onnxruntime.InferenceSession,
        reference: Reference,
        coarsest: ir.DataType,
        tolerance: float | None,
    ) -> None:
        self._sessions = {"unfolded": before, "folded": after}
        self._reference = reference
        self._coarsest = coarsest
        self._tolerance = tolerance
        self._names = [output.name for output in before.get_outputs()]
        self._channels: dict[tuple[str, int], Channels] = {}
        self._worst = {which: dict.fromkeys(self._names, 0.0) for which in self._sessions}

    def look_at(self, batches: Iterable[Batch], progress: Callable[[float], None] | None = None) -> None:
        """Run both files and the reference on each batch."""
        for number, batch in enumerate(batches):
            report = _part(progress, number, len(ROUNDS))
            wanted = self._reference.run(batch, report)
            for which, runtime in self._sessions.items():
                worst = self._worst[which]
                for name, got in zip(self._names, _run(runtime, self._names, batch), strict=True):
                    worst[name] = max(worst[name], relative_error(got, wanted[name]))
                    self._look_at_channels(which, name, got, wanted[name])

    def _look_at_channels(self, which: str, name: str, got: Array, wanted: Array) -> None:
        if not channels.has_channels(wanted) or got.shape != wanted.shape:
            return  # another shape is an infinite error of the whole output
        key = name, wanted.shape[channels.CHANNEL_AXIS]  # which a user's samples may have in another size
        if key not in self._channels:
            self._channels[key] = Channels(key[1], channels.SMALLEST[self._coarsest])
        self._channels[key].look_at(which, got, wanted)

    def errors(self) -> list[OutputError]:
        """Return the figures, finite ones only."""
        return [
            OutputError(name, *map(_finite, (self._worst["folded"][name], self._worst["unfolded"][name], self._bound(name))))
            for name in self._names
        ]

    def misses(self) -> list[str]:
        """Say of each output and of each channel that is off by more than its bound by how much it is."""
        outputs = [error for error in self.errors() if self._worst["folded"][error.name] > self._bound(error.name)]
        return [
            *(_miss(f"output {error.name!r}", error) for error in outputs),
            *(
                _miss(f"output {name!r}, channel {miss.channel}", miss)
                for (name, _), held in self._channels.items()
                for miss in held.misses(self._channel_floor())
            ),
        ]

    def _channel_floor(self) -> float:
        return max(channels.FLOORS[self._coarsest], self._tolerance or 0.0)

    def _bound(self, name: str) -> float:
        if self._tolerance is not None:
            return self._tolerance
        return max(FLOORS[self._coarsest], SLACK * self._worst["unfolded"][name])


def _run(runtime: onnxruntime.InferenceSession, names: list[str], batch: Batch) -> Iterator[Array]:
    try:
        yield from runtime.run(names, batch)
    except Exception as error:
        raise ProofError(f"onnxruntime cannot run the model: {graph.runtime_reason(error)}") from error


def _part(progress: Callable[[float], None] | None, number: int, parts: int) -> Callable[[float], None] | None:
    return None if progress is None else lambda share: progress(min(1.0, (number + share) / parts))


def relative_error(got: Array, wanted: Array) -> float:
    """Return max |got - wanted| / max |wanted|, or for other types than floats the share of elements that differ.

    Args:
        got: What came, of any type.
        wanted: The reference, float64 or the same type, of the same shape.

    Returns:
        At least 0; infinite where shapes differ or where infinities and NaN are not in the same places.
    """
    if np.shape(got) != np.shape(wanted):
        return float("inf")
    if wanted.dtype != np.float64:
        return float(np.mean(got != wanted)) if wanted.size else 0.0
    finite = np.isfinite(wanted)
    got = widened(got)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return float("inf")
    difference = np.abs(got[finite] - wanted[finite]).max(initial=0.0)
    scale = np.abs(wanted[finite]).max(initial=0.0)
    if np.isnan(difference):
        return float("inf")
    return float(difference / scale) if scale else float(difference)


def _coarsest(model: ir.Model) -> ir.DataType:
    values = (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values())
    kinds = [value.dtype for value in values if value.dtype in FLOORS]
    return max(kinds, key=FLOORS.__getitem__, default=ir.DataType.FLOAT)


def _miss(where: str, miss: OutputError | Miss) -> str:
    return (
        f"{where}: the folded file is off by {_figure(miss.folded)}, "
        f"the unfolded one by {_figure(miss.unfolded)}, allowed is {_figure(miss.bound)}"
    )


def _finite(figure: float) -> float | None:
    return figure if np.isfinite(figure) else None


def _figure(figure: float | None) -> str:
    return "not finite" if figure is None or not np.isfinite(figure) else f"{figure:.3g}"
