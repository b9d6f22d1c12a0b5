"""A model with normalization operators before its inputs and behind its outputs, joined where the model computes.

Nothing between an operator and the session goes through the host: what one leaves in the device's memory the other reads there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from normserve_proto.tensors import Array

from normserve_server.compute import Compute
from normserve_server.errors import ServiceError
from normserve_server.operators import Compute as Operator
from normserve_server.operators.device import DeviceTensor, crossing
from normserve_server.operators.handover import to_tensor, to_value
from normserve_server.servable import Signature


class Session(Protocol):
    """What computes between the operators."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives; no BYTES."""

    @property
    def provider(self) -> str:
        """What computes it."""

    @property
    def compute(self) -> Compute:
        """Where it computes."""

    def run_values(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """Orders a run on its lane, in `Lane.run`: from OrtValues on its device to OrtValues there, in its order."""

    def failure(self, error: Exception) -> ServiceError:
        """Says what a failure on its device is to callers."""


class Joined:
    """A servable: operators, a session, operators.

    Args:
        session: the session.
        before: by the name of an input, what is applied to it.
        behind: by the name of an output, likewise.
    """

    def __init__(self, session: Session, before: Mapping[str, Operator], behind: Mapping[str, Operator]) -> None:
        self.signature = session.signature
        self._session = session
        self._before = before
        self._behind = [behind.get(spec.name) for spec in session.signature.outputs]

    @property
    def provider(self) -> str:
        """What computes the model between the operators."""
        return self._session.provider

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs, in the signature's order.

        Raises:
            InvalidRequestError: an operator refuses a tensor.
            DeviceMemoryError: there is no room on the device.
            DeviceBrokenError: the device will do nothing any more.
            InternalError: the model failed on these inputs.
        """
        try:
            return self._run(inputs)
        except Exception as error:  # onnxruntime's and torch's have no other base
            raise self._session.failure(error) from error

    def _run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        session, compute = self._session, self._session.compute
        with compute.turn, crossing(compute.accelerator, compute.lane) as way:
            values = {name: to_value(_applied(self._before.get(name), way.put(array)).tensor) for name, array in inputs.items()}
            outputs = way.run(lambda: [DeviceTensor(to_tensor(value), way) for value in session.run_values(values)])
            finished = [_applied(operator, output) for operator, output in zip(self._behind, outputs, strict=True)]
            return [way.fetch(output) for output in finished]


def _applied(operator: Operator | None, given: DeviceTensor) -> DeviceTensor:
    output: DeviceTensor = operator(given).output if operator else given
    return output
