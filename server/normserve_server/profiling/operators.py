"""What a file's operators take, by onnxruntime's own profiler."""

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from normserve_server.accelerators.interface import Accelerator
from normserve_server.profiling.bench import Bench
from normserve_server.profiling.subject import Subject

WARM_UP_RUNS = 5
PROFILED_RUNS = 20


@dataclass(frozen=True, slots=True)
class Operator:
    """What all nodes of one operator that one provider runs take: on the host their kernels, elsewhere ordering these.

    Attributes:
        name: ONNX's name, or that of what onnxruntime made of several.
        provider: onnxruntime's execution provider.
        nodes: how many there are.
        seconds: of all of them in one run, the medians, by onnxruntime's profile, in whole microseconds for each node.
    """

    name: str
    provider: str
    nodes: int
    seconds: float


def profiled(subject: Subject, accelerator: Accelerator) -> list[Operator]:
    """Runs a file under onnxruntime's profiler, and adds up its nodes; the most expensive operator comes first."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        bench = Bench(subject, accelerator, options)
        for _ in range(WARM_UP_RUNS + PROFILED_RUNS):
            bench.lap()
        events = json.loads(Path(bench.session.end_profiling()).read_text())
    return added_up(events)


def added_up(events: Sequence[Mapping[str, Any]]) -> list[Operator]:
    """Adds up the nodes of a profile's runs, without the first `WARM_UP_RUNS`; the most expensive operator comes first."""
    took: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            told = event["args"]
            took[told["op_name"], told["provider"], told["node_index"]].append(event["dur"] / 1e6)
    operators: dict[tuple[str, str], Operator] = {}
    for (name, provider, _), seconds in took.items():
        before = operators.get((name, provider), Operator(name, provider, 0, 0.0))
        middle = statistics.median(seconds[WARM_UP_RUNS:])
        operators[name, provider] = Operator(name, provider, before.nodes + 1, before.seconds + middle)
    return sorted(operators.values(), key=lambda operator: -operator.seconds)
