"""Heads of requests that were seen before, with everything that follows from a head alone.

The requests of one client mostly differ in their tensors' content only. So what was found out about a head (which version, what
to view the raw contents as, how the answer begins) is kept, by its bytes, and neither parsed nor checked again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import Array, Buffer, TensorError

from normserve_server import delivery, validation
from normserve_server.calls import Call
from normserve_server.extras import Extras
from normserve_server.regions import Regions
from normserve_server.repository import Repository
from normserve_server.validation import Plan, Work
from normserve_server.version import Version

MOST_HEADS = 256
MOST_HEAD_BYTES = 4096
MOST_ANSWERS = 64


class InferRequest(NamedTuple):
    """A ModelInfer message as it came.

    Attributes:
        head: the serialized message; where `raw` is given, without its raw contents.
        raw: views of the raw contents; None where they are in the head.
    """

    head: bytes
    raw: Sequence[Buffer] | None = None


class InferResponse(NamedTuple):
    """A ModelInfer answer before it is bytes: the serialized message without its raw contents, and what those are made of."""

    head: bytes
    outputs: Sequence[Array]


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

    def answer(self, work: Work, outputs: Sequence[Array]) -> InferResponse:
        """Answers a request with what the model made of it.

        Args:
            work: the request.
            outputs: all outputs of the model, in its order.

        Raises:
            InvalidRequestError: an output does not fit into the shared memory that it was to go to, or has too many classes.
        """
        wanted = [outputs[position] for position in self.plan.outputs]
        if self.plan.extras is None:
            return InferResponse(self.answer_head(wanted), wanted)
        return self._extra_answer(self.plan.extras, work, wanted)

    def answer_head(self, outputs: Sequence[Array]) -> bytes:
        """Gives the serialized answer without its raw contents, for outputs of these shapes."""
        shapes = tuple([output.shape for output in outputs])  # from a list: a generator costs twice as much
        head = self._answers.get(shapes)
        if head is None:
            if len(self._answers) >= MOST_ANSWERS:  # shapes that depend on the data
                self._answers.clear()
            head = self._answers[shapes] = self._message(shapes).SerializeToString()
        return head

    def _extra_answer(self, asked: Extras, work: Work, outputs: Sequence[Array]) -> InferResponse:
        signature, labels = self.plan.signature, self.version.class_labels
        names = [signature.outputs[position].name for position in self.plan.outputs]
        own = [labels.get(name, ()) for name in names]
        outputs = delivery.classified(asked, names, outputs, own, batched=signature.max_batch_size > 0)
        message = self._message([output.shape for output in outputs])
        for output, classes in zip(message.outputs, asked.classes, strict=True):
            output.datatype = "BYTES" if classes else output.datatype
        left = delivery.put(message, outputs, work.places)
        return InferResponse(message.SerializeToString(), left)

    def _message(self, shapes: Sequence[tuple[int, ...]]) -> pb.ModelInferResponse:
        model, number = self.version.labels
        message = pb.ModelInferResponse(model_name=model, model_version=number, id=self.request_id)
        for position, shape in zip(self.plan.outputs, shapes, strict=True):
            spec = self.plan.signature.outputs[position]
            message.outputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
        return message


class Plans:
    """Makes plans, and keeps those that may be wanted again until the repository changes.

    Args:
        repository: the models.
        regions: the shared memory that requests may name.
    """

    def __init__(self, repository: Repository, regions: Regions) -> None:
        self._repository = repository
        self._regions = regions
        self._changes = repository.changes
        self._known: dict[bytes, Planned] = {}

    def find(self, request: InferRequest, call: Call) -> tuple[Planned, Work]:
        """Gives the plan of a request's head and binds its tensors to it; labels the call with the version.

        Raises:
            NotFoundError, UnavailableError: there is no such version, or it does not serve.
            DecodeError: the head is not a ModelInferRequest.
            InvalidRequestError, TensorError, UnimplementedError: as `validation.plan` and `delivery.gather`.
        """
        if self._changes != self._repository.changes:
            self._changes = self._repository.changes
            self._known.clear()
        planned = self._known.get(request.head)
        if planned is None or request.raw is None:
            return self._make(request, call)
        _label(call, planned.version, planned.request_id)
        plan = planned.plan
        given = plan.view(request.raw)
        return planned, plan.work(given) if plan.extras is None else self._bind(plan, given)

    def _make(self, request: InferRequest, call: Call) -> tuple[Planned, Work]:
        message = pb.ModelInferRequest.FromString(request.head)
        version = self._repository.serving(message.model_name, message.model_version)
        _label(call, version, message.id)
        planned = Planned(version, version.plan(message), message.id)
        raw = message.raw_input_contents if request.raw is None else request.raw
        if not raw and planned.plan.layouts:
            return planned, self._bind(planned.plan, planned.plan.decode(message))
        if validation.has_contents(message):
            raise TensorError("an input has contents although the message has raw contents; give one of them")
        work = self._bind(planned.plan, planned.plan.view(raw))
        if request.raw is not None:
            self._keep(request.head, planned)
        return planned, work

    def _bind(self, plan: Plan, given: Mapping[str, Array]) -> Work:
        return plan.work(given) if plan.extras is None else delivery.gather(plan, plan.extras, given, self._regions)

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
