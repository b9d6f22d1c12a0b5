"""`parameters` and `optimization`: what a model's file asks of onnxruntime and of the batcher beyond Triton's other fields."""

import json
from collections.abc import Mapping
from typing import Any

from normserve_proto import open_inference_pb2 as pb

from normserve_server.errors import LoadError

THREADS = "intra_op_thread_count"
BUCKETS = "batch_buckets"
NO_BUCKETS = "none"
OPERATORS = "operators"
MOST_THREADS = 1024

# What these say holds for every model: operators run one after the other. Other values are refused.
FIXED: Mapping[str, frozenset[str]] = {
    "execution_mode": frozenset({"0"}),
    "inter_op_thread_count": frozenset({"0", "1"}),
}

# Triton's levels, as its onnxruntime backend reads them, to onnxruntime's names.
GRAPH_LEVELS: Mapping[int, str] = {
    -1: "ORT_ENABLE_BASIC",
    0: "ORT_ENABLE_ALL",
    1: "ORT_ENABLE_EXTENDED",
    2: "ORT_DISABLE_ALL",
}


def check(parameters: Mapping[str, pb.ModelParameter]) -> None:
    """Refuses what is not offered.

    Raises:
        LoadError: an unknown key, or a value that does not hold here.
    """
    others = sorted(set(parameters) - {THREADS, BUCKETS, OPERATORS, *FIXED})
    if others:
        raise LoadError(f"{', '.join(f'parameters[{key}]' for key in others)} is not offered by this server")
    for key, values in FIXED.items():
        value = parameters[key].string_value if key in parameters else None
        if value is not None and value not in values:
            raise LoadError(f"parameters[{key}] is {' or '.join(sorted(values))}, got '{value}'")


def threads(parameters: Mapping[str, pb.ModelParameter]) -> int | None:
    """Threads within one operator; None for the service's choice, which 0 asks for too.

    Raises:
        LoadError: not a number, or out of range.
    """
    if THREADS not in parameters:
        return None
    count = _integer(THREADS, parameters[THREADS].string_value)
    if count > MOST_THREADS:
        raise LoadError(f"parameters[{THREADS}] is 0 to {MOST_THREADS}, got {count}")
    return count or None


def buckets(parameters: Mapping[str, pb.ModelParameter]) -> tuple[int, ...] | None:
    """Sizes that batches are padded to; empty for no padding; None where nothing is said.

    Raises:
        LoadError: not numbers with commas between them.
    """
    if BUCKETS not in parameters:
        return None
    text = parameters[BUCKETS].string_value.strip()
    return () if text in {"", NO_BUCKETS} else tuple(_integer(BUCKETS, size) for size in text.split(","))


def operators(parameters: Mapping[str, pb.ModelParameter]) -> dict[str, dict[str, Any]]:
    """What is applied to tensors before and behind the model: by tensor, `operator` and its arguments; see `joining`.

    Raises:
        LoadError: no JSON of that form.
    """
    if OPERATORS not in parameters:
        return {}
    text = parameters[OPERATORS].string_value
    wanted = f'parameters[{OPERATORS}] is JSON such as {{"embedding": {{"operator": "normalize", "dim": -1}}}}'
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        raise LoadError(f"{wanted}, got '{text}'") from None
    fits = isinstance(read, dict) and all(isinstance(one, dict) and "operator" in one for one in read.values())
    if not fits:
        raise LoadError(f"{wanted}, got '{text}'")
    found: dict[str, dict[str, Any]] = read
    return found


def graph_optimization(message: pb.ModelOptimizationPolicy) -> str:
    """The name of onnxruntime's GraphOptimizationLevel.

    Raises:
        LoadError: no such level.
    """
    level = GRAPH_LEVELS.get(message.graph.level)
    if level is None:
        raise LoadError(f"optimization.graph.level is -1, 0, 1 or 2, got {message.graph.level}")
    return level


def message_of(thread_count: int, sizes: tuple[int, ...]) -> dict[str, pb.ModelParameter]:
    """The two parameters as ModelConfig tells them.

    Args:
        thread_count: threads within one operator; 0 for one a core.
        sizes: sizes that batches are padded to; empty for no padding.
    """
    texts = {THREADS: str(thread_count), BUCKETS: ",".join(map(str, sizes)) or NO_BUCKETS}
    return {key: pb.ModelParameter(string_value=text) for key, text in texts.items()}


def _integer(key: str, text: str) -> int:
    digits = text.strip()
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        raise LoadError(f"parameters[{key}] is made of integers >= 0, got '{text}'")
    return int(digits)
