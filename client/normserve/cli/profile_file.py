"""Where a run of an ONNX file spends its time, in this process, without a server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from normserve_proto.tensors import Array

from normserve.cli.console import InputError, needs_extra
from normserve.cli.profile_stages import COPY_IN, COPY_OUT, HOST, KERNELS, Kernel, Profile, Stage

if TYPE_CHECKING:
    from normserve_server.profiling.measuring import Measured

GRAPH_COPIES = {"MemcpyFromHost", "MemcpyToHost"}  # what onnxruntime puts between nodes of different devices


def measure(path: Path, inputs: Mapping[str, Array], *, samples: int, requests: int, device: str, threads: int) -> Profile:
    """Runs a file.

    Args:
        path: the file; it is run as it is, not folded.
        inputs: by name; zeros where one is not given.
        samples: extent of a dynamic first dimension of those, > 0.
        requests: how many runs, > 0.
        device: "auto", "cpu" or "cuda:N".
        threads: within one operator; 0 for one per core.

    Raises:
        InputError: there is no such device or file, or it does not run with these inputs.
    """
    with needs_extra("server"):
        from normserve_server import devices
        from normserve_server.accelerators.opened import open_one
        from normserve_server.accelerators.tuning import Tuning
        from normserve_server.errors import LoadError, ServiceError
        from normserve_server.profiling.measuring import measure as measured
        from normserve_server.profiling.subject import Subject
    try:
        accelerator = open_one(devices.choose(device))
        found = measured(Subject(path, inputs, samples, requests, threads, Tuning()), accelerator)
    except (devices.DeviceError, LoadError, ServiceError) as error:
        raise InputError(str(error)) from error
    return told(found, f"{path} on {accelerator.device}", requests, apart=accelerator.apart)


def told(found: "Measured", subject: str, requests: int, *, apart: bool) -> Profile:
    """Puts what was measured into stages.

    Args:
        found: what was measured.
        subject: what it was measured of.
        requests: how many runs.
        apart: whether the device's memory is not the host's.
    """
    kernels = [Kernel(one.name, one.provider, one.nodes, one.seconds) for one in found.operators]
    times = found.times
    if apart:
        stages = [
            Stage("copy inputs in", COPY_IN, times.copy_in),
            Stage("run the kernels", KERNELS, times.run),
            Stage("copy outputs out", COPY_OUT, times.copy_out),
            Stage("fill, order, wait", HOST, times.host),
        ]
    else:
        spent = min(sum(kernel.seconds for kernel in kernels), times.run)
        stages = [
            Stage("run the kernels", KERNELS, spent),
            Stage("onnxruntime around them", HOST, times.run - spent),
            Stage("call onnxruntime", HOST, times.host),
        ]
    return Profile(subject, requests, found.samples, stages, kernels, notes(kernels, apart=apart), "median")


def notes(kernels: Sequence[Kernel], *, apart: bool) -> list[str]:
    """What has to be known to read the operators' times."""
    if not apart:
        return []
    lines = ["the operators' times are the host's, which orders their kernels; only the sum of these is measured on the device"]
    copies = sum(kernel.nodes for kernel in kernels if kernel.operator in GRAPH_COPIES)
    on_host = sum(kernel.nodes for kernel in kernels if kernel.provider == "CPUExecutionProvider")
    if copies:
        lines.append(f"{copies} nodes copy between host and device within the graph, and {on_host} run on the host")
    return lines
