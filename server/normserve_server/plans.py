"""Heads of requests that were seen before, with everything that follows from a head alone.

The requests of one client mostly differ in their tensors' content only. So what was found out about a head (which version, what
to view the raw contents as, how the answer begins) is kept, by its bytes, and neither parsed nor checked again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors
from normserve_proto.tensors import Array, Buffer, TensorError

from normserve_server import validation
from normserve_server.calls import Call
from normserve_server.repository import Repository
from normserve_server.validation import Plan, Work
from normserve_server.version import Version

MOST_HEADS = 256
MOST_HEAD_BYTES = 4096
MOST_ANSWERS = 64


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A ModelInfer message as it came.

    Attributes:
        head: the serialized message; where `raw` is given, without its raw contents.
        raw: views of the raw contents; None where they are in the head.
    """

    head: bytes
    raw: Sequence[Buffer] | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """What is known of a head.

    Attributes:
        version: the version that it asks for.
        plan: how its tensors lie, and what it wants.
        request_id: comes back in the answer.
    """

    version: Version
    plan: Plan
    request_id: str
    _answers: dict[tuple[tuple[int, ...], ...], bytes] = field(default_factory=dict)

    def answer_head(self, outputs: Sequence[Array]) -> bytes:
        """Gives the serialized answer without its raw contents, for outputs of these shapes."""
        shapes = tuple(output.shape for output in outputs)
        head = self._answers.get(shapes)
        if head is None:
            if len(self._answers) >= MOST_ANSWERS:  # shapes that depend on the data
                self._answers.clear()
            head = self._answers[shapes] = self._serialized(shapes)
        return head

    def _serialized(self, shapes: Sequence[tuple[int, ...]]) -> bytes:
        model, number = self.version.labels
        message = pb.ModelInferResponse(model_name=model, model_version=number, id=self.request_id)
        for position, shape in zip(self.plan.outputs, shapes, strict=True):
            spec = self.version.signature.outputs[position]
            message.outputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
        return message.SerializeToString()


class Plans:
    """Makes plans, and keeps those that may be wanted again until the repository changes.

    Args:
        repository: the models.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._changes = repository.changes
        self._known: dict[bytes, Planned] = {}

    def find(self, request: InferRequest, call: Call) -> tuple[Planned, Work]:
        """Gives the plan of a request's head and binds its tensors to it; labels the call with the version.

        Raises:
            NotFoundError, UnavailableError: there is no such version, or it does not serve.
            DecodeError: the head is not a ModelInferRequest.
            InvalidRequestError, TensorError, UnimplementedError: as `validation.plan`.
        """
        if self._changes != self._repository.changes:
            self._changes = self._repository.changes
            self._known.clear()
        planned = self._known.get(request.head)
        if planned is None or request.raw is None:
            return self._make(request, call)
        _label(call, planned.version, planned.request_id)
        return planned, planned.plan.bind(request.raw)

    def _make(self, request: InferRequest, call: Call) -> tuple[Planned, Work]:
        message = pb.ModelInferRequest.FromString(request.head)
        version = self._repository.serving(message.model_name, message.model_version)
        _label(call, version, message.id)
        planned = Planned(version, validation.plan(version.signature, message), message.id)
        raw = message.raw_input_contents if request.raw is None else request.raw
        if not raw and message.inputs:
            return planned, planned.plan.work(tensors.decode_all(message.inputs, raw))
        if validation.has_contents(message):
            raise TensorError("an input has contents although the message has raw contents; give one of them")
        work = planned.plan.bind(raw)
        if request.raw is not None:
            self._keep(request.head, planned)
        return planned, work

    def _keep(self, head: bytes, planned: Planned) -> None:
        if len(head) > MOST_HEAD_BYTES:
            return
        if len(self._known) >= MOST_HEADS:  # heads with ids of their own, say, which never come again
            self._known.clear()
        self._known[head] = planned


def _label(call: Call, version: Version, request_id: str) -> None:
    call.model, call.version = version.labels
    call.request_id = request_id
    call.statistics = version.statistics
