"""A model with normalization operators before its inputs and behind its outputs, joined where the model computes.

Nothing between an operator and the session goes through the host: what one leaves in the device's memory the other reads there.
"""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Protocol

from normserve_proto.tensors import Array

from normserve_server.accelerators.interface import Accelerator, Lane
from normserve_server.operators import Compute
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
    def accelerator(self) -> Accelerator:
        """Where it computes."""

    @property
    def lane(self) -> Lane:
        """What it computes on."""

    def run_values(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """Computes the outputs, in its order, as OrtValues on its device, of OrtValues there. Call it in `lane.run`."""


class Joined:
    """A servable: operators, a session, operators.

    Args:
        session: the session.
        before: by the name of an input, what is applied to it.
        behind: by the name of an output, likewise.
    """

    def __init__(self, session: Session, before: Mapping[str, Compute], behind: Mapping[str, Compute]) -> None:
        self.signature = session.signature
        self._session = session
        self._before = before
        self._behind = [behind.get(spec.name) for spec in session.signature.outputs]
        self._turn = Lock()  # a lane's

    @property
    def provider(self) -> str:
        """What computes the model between the operators."""
        return self._session.provider

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs, in the signature's order.

        Raises:
            InvalidRequestError: an operator refuses a tensor.
            InternalError: onnxruntime failed on these inputs, or the device has no room for them.
        """
        session = self._session
        with self._turn, crossing(session.accelerator, session.lane) as way:
            values = {name: to_value(_applied(self._before.get(name), way.put(array)).tensor) for name, array in inputs.items()}
            outputs = way.run(lambda: [DeviceTensor(to_tensor(value), way) for value in session.run_values(values)])
            finished = [_applied(operator, output) for operator, output in zip(self._behind, outputs, strict=True)]
            return [way.fetch(output) for output in finished]


def _applied(operator: Compute | None, given: DeviceTensor) -> DeviceTensor:
    output: DeviceTensor = operator(given).output if operator else given
    return output
