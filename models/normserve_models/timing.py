"""What a run costs in onnxruntime on the CPU, before and after a fold.

Both files are open at once and run in turn on the same sample, so that whatever else the machine does falls on both. A run
that is disturbed is slow and never fast: the median of many is what a run takes.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from typing import TYPE_CHECKING

from normserve_models import draw, runtime
from normserve_models.report import RunCost

if TYPE_CHECKING:
    from pathlib import Path

    from onnxruntime import InferenceSession

    from normserve_models.draw import Batch

SECONDS = 1.0
FEWEST, MOST = 5, 1000


def compare(source: Path, folded: Path) -> RunCost:
    """Time both files on one sample, for about a second or for a few runs each, whichever is more.

    Args:
        source: The file as it was.
        folded: The folded file, which has the same inputs.

    Raises:
        SourceError: onnxruntime cannot load one of them.
        SamplesError: No inputs can be drawn.
    """
    threads = _cores()
    opened = [_session(path, threads) for path in (source, folded)]
    [sample] = draw.drawn(opened[0], range(1), rows=1)
    taken = _in_turn(opened, sample)
    before, after = (statistics.median(times) * 1e3 for times in taken)
    return RunCost(round(before, 5), round(after, 5), round(after / before, 4), len(taken[0]), threads)


def _cores() -> int:
    available = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(available(0)) if available else os.cpu_count() or 1


def _session(path: Path, threads: int) -> InferenceSession:
    options = runtime.options()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or one's idle threads would slow the other
    return runtime.session(path, options)


def _in_turn(opened: list[InferenceSession], sample: Batch) -> tuple[list[float], ...]:
    """Return the seconds that each run took, a list for each session."""
    taken: tuple[list[float], ...] = tuple([] for _ in opened)
    for one in opened:
        one.run(None, sample)  # the first run is another one: it allocates
    started = time.perf_counter()
    for number in itertools.count(1):
        for one, times in zip(opened, taken, strict=True):
            times.append(_timed(one, sample))
        if number >= MOST or (number >= FEWEST and time.perf_counter() - started > SECONDS):
            break
    return taken


def _timed(one: InferenceSession, sample: Batch) -> float:
    began = time.perf_counter()
    one.run(None, sample)
    return time.perf_counter() - began
