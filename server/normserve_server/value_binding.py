"""Runs a session on tensors that are on its device already, and leaves what it gives there."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_c

from normserve_server.accelerators.interface import Accelerator
from normserve_server.binding import place


class ValueBinding:
    """A session's runs from OrtValues to OrtValues.

    Args:
        session: the session; without BYTES.
        accelerator: where it computes.
    """

    def __init__(self, session: ort.InferenceSession, accelerator: Accelerator) -> None:
        self._session = session._sess
        self._names = [node.name for node in session.get_outputs()]
        memory = accelerator.memory(1)
        self._device = place(memory.kind, memory.index)

    def run(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """Computes the outputs, in the session's order, of inputs by name; raises what onnxruntime raises."""
        binding = onnxruntime_c.SessionIOBinding(self._session)
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._names:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding, None)
        outputs: Sequence[Any] = binding.get_outputs()
        return list(outputs)
