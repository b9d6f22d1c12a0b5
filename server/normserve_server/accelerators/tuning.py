"""How sessions are to use a GPU: the settings of that, as one value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """How sessions use a GPU; the CPU has no use for any of it.

    Attributes:
        memory_limit_bytes: the most that a session's arena may take; 0 for no limit.
        conv_algo_search: how cuDNN's algorithms are found: "HEURISTIC", "EXHAUSTIVE" or "DEFAULT".
        tf32: whether float32 products may be rounded to 10 bits of mantissa.
        prefer_nhwc: whether convolutions are brought into channels-last order.
        cuda_graphs: whether runs of known shapes are captured once and replayed.
        tensorrt: whether TensorRT builds engines of what it can.
    """

    memory_limit_bytes: int = 0
    conv_algo_search: str = "HEURISTIC"
    tf32: bool = False
    prefer_nhwc: bool = False
    cuda_graphs: bool = False
    tensorrt: bool = False
