"""Measures a file: how long its runs take, and what for."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnxruntime as ort

from normserve_server.accelerators.interface import Accelerator
from normserve_server.errors import InvalidRequestError, LoadError
from normserve_server.profiling.bench import Bench, Times
from normserve_server.profiling.operators import WARM_UP_RUNS, Operator, profiled
from normserve_server.profiling.subject import Subject


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found.

    Attributes:
        times: medians over the runs, each part for itself.
        operators: the most expensive first.
        samples: extent of the inputs' first dimension.
    """

    times: Times
    operators: Sequence[Operator]
    samples: int


def measure(subject: Subject, accelerator: Accelerator) -> Measured:
    """Runs a file, and once more under onnxruntime's profiler, whose own cost is in no time but the operators'.

    Raises:
        InvalidRequestError: an input is unknown, or has to be given.
        LoadError: onnxruntime does not take the file, or does not run it with these inputs.
    """
    try:
        bench = Bench(subject, accelerator, ort.SessionOptions())
        laps = [bench.lap() for _ in range(WARM_UP_RUNS + subject.runs)][WARM_UP_RUNS:]
        operators = profiled(replace(subject, inputs=bench.inputs), accelerator)
    except (InvalidRequestError, LoadError):
        raise
    except Exception as error:  # onnxruntime's exceptions have no other base
        raise LoadError(f"{subject.path}: onnxruntime: {str(error).strip().splitlines()[0]}") from error
    medians = (statistics.median(getattr(lap, name) for lap in laps) for name in Times.__slots__)
    samples = next((len(array) for array in bench.inputs.values() if array.ndim), 1)
    return Measured(Times(*medians), operators, samples)
