"""The questions, each answered by rows of figures."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from gpu_tools import bare, operators, rival, served
from gpu_tools.figures import Row
from gpu_tools.run import Run

SMALLEST_SHARE = 20.0  # seconds that a question needs to be begun


def normalization(run: Run) -> Iterator[Row]:
    """Normalization beside a copy."""
    found = operators.gigabytes_per_second(run.accelerator, run.scale.operator_bytes)
    megabytes = run.scale.operator_bytes / 1e6
    for name, figure in found.items():
        if name != "copy":
            yield Row("operators", f"{name}, {megabytes:.0f} MB", figure, "GB/s", "copy", found["copy"], wanted=0.8)


def service(run: Run) -> Iterator[Row]:
    """The network through gRPC: its latency and new batch sizes on a fresh server, then its rate, by serving processes."""
    scale, network = run.scale, run.network
    alone = bare.median_lap(run.file, run.accelerator, run.best.tuning, scale.laps)
    for workers in scale.workers:
        flags = [*served.flags(run.best.tuning), "--workers", str(workers)]
        with served.server(run.repository, scale.device, flags) as address:
            if workers == scale.workers[0]:
                slowest, middle = served.new_sizes(address, network, scale.buckets[-1])
                yield Row("new sizes", "slowest", slowest * 1e3, "ms", "median", middle * 1e3, wanted=3.0, at_most=True)
                latency = served.latency(address, network, run.folder, scale.seconds)
                row = Row("overhead", "one caller, p50", latency * 1e3, "ms", "in-process", alone * 1e3, differs=True)
                yield replace(row, wanted=0.5, at_most=True)
            load = {"processes": scale.processes, "callers": scale.callers}
            rate = served.rate(address, network, run.folder, seconds=scale.seconds, **load)
        what = f"{workers} serving process{'es' * (workers > 1)}"
        yield Row("served", what, rate, "samples/s", f"in-process, batch {run.best.size}", run.best.per_second, wanted=0.9)


def in_process(run: Run) -> Iterator[Row]:
    """In this process onnxruntime beside torch.compile, at the same batch size."""
    best, scale = run.best, run.scale
    tuning = {"CUDA graphs": best.tuning.cuda_graphs, "NHWC": best.tuning.prefer_nhwc, "TF32": best.tuning.tf32}
    what = ", ".join([f"onnxruntime, batch {best.size}", *(name for name, chosen in tuning.items() if chosen)])
    row = Row("in-process", what, best.per_second, "samples/s", f"torch, {scale.rival}", wanted=0.95)
    try:
        theirs = rival.samples_per_second(
            scale.network, best.size, scale.device, scale.rival, seconds=scale.seconds, limit=run.left()
        )
        yield replace(row, ceiling=theirs)
    except rival.RivalError as error:
        yield replace(row, note=str(error))


# What may take all the time that is left comes last.
QUESTIONS: dict[str, Callable[[Run], Iterator[Row]]] = {
    "operators": normalization,
    "service": service,
    "in-process": in_process,
}


def answered(run: Run, name: str) -> Iterator[Row]:
    """A question's rows; one without a figure where it failed or there is no time left for it."""
    if run.left() < SMALLEST_SHARE:
        yield Row(name, "", None, "", note="not measured: there was no time left")
        return
    try:
        yield from QUESTIONS[name](run)
    except Exception as error:  # noqa: BLE001 - the other questions have answers
        text = str(error).strip().splitlines()
        yield Row(name, "", None, "", note=f"not measured: {type(error).__name__}: {text[0] if text else ''}")
