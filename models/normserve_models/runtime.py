"""onnxruntime on the CPU, for the proof and for what it costs to run a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime

from normserve_models import memory
from normserve_models.graph import SourceError, runtime_reason

if TYPE_CHECKING:
    from pathlib import Path

    from normserve_models.draw import Batch
    from normserve_models.kernels import Array


class ProofError(Exception):
    """The folded file is not as exact as it has to be; the message names the output or its channel, and both figures."""


def options() -> onnxruntime.SessionOptions:
    """Return the options of every session here: as it will be served, and silent."""
    chosen = onnxruntime.SessionOptions()
    chosen.log_severity_level = 4  # what matters comes as an exception; a fallback would print and try the same again
    return chosen


def plain_options() -> onnxruntime.SessionOptions:
    """Return options to run the nodes one by one as the file has them, with no copies of the weights in other layouts."""
    chosen = options()
    chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    chosen.add_session_config_entry("session.disable_prepacking", "1")
    return chosen


def session(
    path: Path, chosen: onnxruntime.SessionOptions | None = None, *, exact_training: bool = False
) -> onnxruntime.InferenceSession:
    """Open a model on the CPU.

    Args:
        path: The model.
        chosen: How to run it; by default as it will be served.
        exact_training: Switch off an optimiser that makes a batch norm in training mode wrong where two of its
            parameters are equal: onnxruntime shares the constants, and the kernel then overwrites both.

    Raises:
        SourceError: onnxruntime cannot load it.
    """
    memory.make_room()
    disabled = ["ConstantSharing"] if exact_training else []
    try:
        with memory.blocks_apart():
            return onnxruntime.InferenceSession(
                path, chosen or options(), providers=["CPUExecutionProvider"], disabled_optimizers=disabled, enable_fallback=0
            )
    except Exception as error:
        raise SourceError(f"{path}: onnxruntime cannot load it: {runtime_reason(error)}") from error


def run(opened: onnxruntime.InferenceSession, names: list[str], batch: Batch) -> list[Array]:
    """Return the outputs of these names.

    Raises:
        ProofError: onnxruntime fails on the batch.
    """
    try:
        outputs: list[Array] = opened.run(names, batch)
    except Exception as error:
        raise ProofError(f"onnxruntime cannot run the model: {runtime_reason(error)}") from error
    return outputs
