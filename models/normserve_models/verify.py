"""The proof of a fold: both files as onnxruntime runs them, judged against the source in float64.

`measure` tells what is measured and what is allowed. What is judged are the outputs of the files as they will be served.
Beside them each layer that the fold has changed is measured, on the first batch: so that a fold that fails its proof can be
told where. The reference and the two sessions are never held at once: each needs as much memory as the file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from normserve_models import draw, graph, layers, memory, runtime
from normserve_models.measure import FOLDED, UNFOLDED, Allowance, Measure, coarsest, finite, relative_error
from normserve_models.reference import NoReferenceError, Reference
from normserve_models.report import LayerError, OutputError
from normserve_models.runtime import ProofError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from onnxruntime import InferenceSession

    from normserve_models.draw import Batch
    from normserve_models.kernels import Array

Progress = Callable[[float], None] | None
Take = Callable[["InferenceSession"], "Iterable[Batch]"]
See = Callable[[str, "Array"], None] | None

ROUNDS = range(2)
MORE_ROUNDS = range(10)
TOGETHER = 16  # batches of samples, whose references are held at once


@dataclass(frozen=True)
class Proof:
    """What a proof has measured.

    Attributes:
        outputs: An entry an output.
        layers: An entry a layer that the fold has changed, in the order of the graph.
        narrow: The operators whose reference is float32, because none is there in float64.
    """

    outputs: list[OutputError]
    layers: list[LayerError]
    narrow: set[str]


def prove(
    source: Path,
    folded: Path,
    *,
    tolerance: float | None = None,
    samples: Mapping[str, Array] | None = None,
    progress: Progress = None,
) -> Proof:
    """Compare the folded file with its source, both against float64.

    Args:
        source: The file as it was.
        folded: The file as it is to be served. Copies of both files are made for a while in its directory.
        tolerance: The largest relative error allowed, in place of the bound of `measure`. The bound of a channel is widened
            to it, but never narrowed.
        samples: An array for each input, by name, to prove on beside the drawn ones.
        progress: Called with the share done, 0 to 1.

    Returns:
        The errors of the outputs and of the layers.

    Raises:
        ProofError: An output, or a channel of one, is off by more than its bound, or the folded file does not run. The
            message names the layer where that begins.
        SourceError: onnxruntime cannot load the source.
        SamplesError: The samples do not fit, or no inputs can be drawn.
        NoReferenceError: The source holds an operator that has no reference.
    """
    judge = Judge(source, folded, tolerance)
    judge.look_at(partial(draw.drawn, rounds=ROUNDS, agrees=judge.agrees), progress, with_layers=True)
    if samples is not None:
        judge.look_at(partial(draw.given, samples=samples))
    if judge.misses():
        # The unfolded file may have been lucky: with few numbers in an output one draw says little about either.
        judge.look_at(partial(draw.drawn, rounds=MORE_ROUNDS, agrees=judge.agrees), with_rounding=True)
    for miss in judge.misses():
        raise ProofError(miss + judge.layers.blame())
    return Proof(judge.errors(), judge.layers.errors(), judge.narrow)


def require_runs(path: Path) -> None:
    """Raise SourceError or SamplesError where onnxruntime cannot load a model, or run it on any input."""
    next(draw.drawn(runtime.session(path), ROUNDS))


class Judge:
    """Holds the largest error of each output and of each layer, of both files.

    Args:
        source: As in `prove`.
        folded: As in `prove`.
        tolerance: As in `prove`.
    """

    def __init__(self, source: Path, folded: Path, tolerance: float | None) -> None:
        self.narrow: set[str] = set()
        self._paths = {UNFOLDED: source, FOLDED: folded}
        model = graph.load(source)
        self._exact = any(node.attributes.get_int("training_mode", 0) for node in graph.batch_norms(model))
        known = layers.names(model)
        allowance = Allowance(coarsest(model), tolerance)
        self._outputs = {str(value.name): Measure(allowance) for value in model.graph.outputs}
        self._roundoff = allowance.roundoff
        del model  # as large as the file, and so is the next
        memory.make_room()
        with _folded_file_at_fault():
            self.layers = layers.Layers(layers.changed(graph.load(folded), known), allowance)

    def agrees(self, batch: Batch, answers: Sequence[Array]) -> bool:
        """Tell whether the source's answers have the shapes of the reference, and are finite where that is."""
        try:
            wanted = Reference(graph.load(self._paths[UNFOLDED])).run(batch)
        except NoReferenceError:  # of this size; if of any, judging will say so
            return False
        return all(np.isfinite(relative_error(got, wanted[name])) for name, got in zip(self._outputs, answers, strict=True))

    def look_at(self, take: Take, progress: Progress = None, *, with_layers: bool = False, with_rounding: bool = False) -> None:
        """Run both files and the reference on each batch; look at the layers on the first one.

        Args:
            take: Gives the batches, told the session that they are for.
            progress: As in `prove`.
            with_layers: Whether to look at the layers.
            with_rounding: Whether to find out what rounding alone does to the source.
        """
        opened = self._session(UNFOLDED)
        batches = list(take(opened))
        for start in range(0, len(batches), TOGETHER):
            some = batches[start : start + TOGETHER]
            given = {UNFOLDED: self._answers(opened or self._session(UNFOLDED), some)}
            opened = None  # before the next one opens
            given[FOLDED] = self._answers(self._session(FOLDED), some)
            wanted = self._references(some, progress, self.layers.see if with_layers else None)
            for which, answers in given.items():
                self._compare(which, answers, wanted)
            if with_rounding:
                self._look_at_rounding(some, wanted)
            if with_layers:
                self.layers.look_at(self._paths, some[0])

    def _answers(self, opened: InferenceSession, batches: Sequence[Batch]) -> list[list[Array]]:
        return [runtime.run(opened, list(self._outputs), batch) for batch in batches]

    def _references(self, batches: Sequence[Batch], progress: Progress, see: See) -> list[dict[str, Array]]:
        memory.make_room()
        reference = Reference(graph.load(self._paths[UNFOLDED]))
        found = [
            reference.run(batch, part(progress, number, len(batches)), None if number else see)
            for number, batch in enumerate(batches)
        ]
        self.narrow |= reference.narrow
        return found

    def _look_at_rounding(self, batches: Sequence[Batch], wanted: list[dict[str, Array]]) -> None:
        shaken = Reference(graph.load(self._paths[UNFOLDED]), shake=self._roundoff)
        for batch, reference in zip(batches, wanted, strict=True):
            answers = shaken.run(batch)
            for name, measure in self._outputs.items():
                measure.look_at_rounding(answers[name], reference[name])

    def _compare(self, which: str, answers: list[list[Array]], wanted: list[dict[str, Array]]) -> None:
        for arrays, reference in zip(answers, wanted, strict=True):
            for (name, measure), got in zip(self._outputs.items(), arrays, strict=True):
                measure.look_at(which, got, reference[name])

    def _session(self, which: str) -> InferenceSession:
        with _folded_file_at_fault() if which == FOLDED else nullcontext():
            return runtime.session(self._paths[which], exact_training=self._exact)

    def errors(self) -> list[OutputError]:
        """Return the figures of the outputs, finite ones only."""
        return [
            OutputError(name, *map(finite, (measure.folded, measure.unfolded, measure.bound)))
            for name, measure in self._outputs.items()
        ]

    def misses(self) -> list[str]:
        """Say of each output and of each channel that is off by more than its bound by how much it is."""
        found = ((name, measure.misses()) for name, measure in self._outputs.items())
        return [f"output {name!r}{miss}" for name, misses in found for miss in misses]


def part(progress: Progress, number: int, parts: int) -> Progress:
    """Return what reports the progress of one of several parts as that of the whole."""
    return None if progress is None else lambda share: progress(min(1.0, (number + share) / parts))


@contextmanager
def _folded_file_at_fault() -> Iterator[None]:
    try:
        yield
    except graph.SourceError as error:
        raise ProofError(str(error)) from error
