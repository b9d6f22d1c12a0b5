"""Runs a session on tensors that are on its device already, and leaves what it gives there."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_c

from normserve_server.binding import hosted, place
from normserve_server.compute import Compute, graph


class ValueBinding:
    """A session's runs from OrtValues to OrtValues.

    Args:
        session: the session; without BYTES.
        compute: where it computes.
    """

    def __init__(self, session: ort.InferenceSession, compute: Compute) -> None:
        self._session = session._sess
        self._names = [node.name for node in session.get_outputs()]
        self._device = place(*compute.accelerator.where)
        self._lane = compute.lane
        self._hosted = hosted(session, compute.accelerator.where)
        self._options = graph(None).options

    def run(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """Orders the run; gives the outputs, in the session's order. Raises what onnxruntime raises.

        Args:
            values: the inputs, by name; to be kept until the run has ended.
        """
        if self._hosted:  # onnxruntime copies these while it binds them, and waits for nobody
            self._lane.record().synchronize()
        binding = onnxruntime_c.SessionIOBinding(self._session)
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._names:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding, self._options)
        outputs = binding.get_outputs()
        return [outputs[position] for position in range(len(self._names))]  # its own iteration ends with an exception: 25 us
