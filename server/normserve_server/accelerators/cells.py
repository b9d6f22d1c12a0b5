"""A device's memory as numpy and torch take it without a copy, whoever allocated it."""

from normserve_server.accelerators.interface import Memory


class Cells:
    """Memory as uint8 [nbytes], by the array interface: numpy's for the host's, CUDA's for a GPU's.

    Args:
        memory: it lives as long as this, which whoever makes an array or a tensor of this keeps.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        cells = {"shape": (memory.nbytes,), "typestr": "|u1", "data": (memory.pointer, False), "version": 3}
        setattr(self, "__array_interface__" if memory.kind == "cpu" else "__cuda_array_interface__", cells)
