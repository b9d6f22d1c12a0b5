"""What the threads of one session share on a device, and what a run there is made of: stretches of lanes, and graphs."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_c

from normserve_server.accelerators.interface import Accelerator, Event, Lane

_NO_GRAPH = -1  # onnxruntime's word for a run that is neither captured nor replayed


class Graph(NamedTuple):
    """What a run is captured as, or replayed from.

    Attributes:
        number: of the session's graphs; None for an ordinary run.
        options: what onnxruntime is told about such a run.
    """

    number: int | None
    options: Any


def graph(number: int | None) -> Graph:
    """Makes a graph that is still to be captured, or with None an ordinary run."""
    options = onnxruntime_c.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # it orders the run, and lets others order
    options.add_run_config_entry("gpu_graph_id", str(_NO_GRAPH if number is None else number))
    return Graph(number, options)


@dataclass(frozen=True, slots=True)
class Compute:
    """Where a session computes.

    Attributes:
        accelerator: the device.
        lane: the session's.
        turn: held by who orders a run there.
        numbers: of graphs.
    """

    accelerator: Accelerator
    lane: Lane
    turn: Lock = field(default_factory=Lock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class Span:
    """A stretch of a lane, which begins now.

    Args:
        lane: the lane.

    Attributes:
        ended: where it ends.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._began = self.ended = lane.record()

    def end(self) -> Event:
        """Ends it here."""
        self.ended = self._lane.record()
        return self.ended

    @property
    def seconds(self) -> float:
        """How long the device was at it; only once the end is synchronized."""
        return self.ended.seconds_since(self._began)


class Times(NamedTuple):
    """How long the parts of a run took on the device, in seconds; waits for other runs are in none of them.

    Attributes:
        copy_in: of the inputs.
        run: of the model.
        copy_out: of the outputs.
    """

    copy_in: float
    run: float
    copy_out: float
