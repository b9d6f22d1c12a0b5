"""What few requests ask for, done: inputs fetched from shared memory, outputs classified, or put into shared memory.

Whatever can be refused is refused before a byte is written, so that nobody finds half an answer in shared memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors
from normserve_proto.tensors import Array, Layout

from normserve_server import classification, extras
from normserve_server.errors import InvalidRequestError
from normserve_server.extras import Extras
from normserve_server.regions import Regions
from normserve_server.shared_memory import Part
from normserve_server.validation import Plan, Work

_ELSEWHERE = np.empty(0, np.uint8)  # what an answer carries of an output that is in shared memory


class Inputs(Mapping[str, Array]):
    """A request's inputs, of which some are in shared memory; each time that one is looked up, it is seen to that it still is.

    Args:
        names: all names, in order.
        given: the inputs that are here.
        placed: those in shared memory.
    """

    def __init__(self, names: tuple[str, ...], given: Mapping[str, Array], placed: Mapping[str, tuple[Layout, Part]]) -> None:
        self._names = names
        self._given = given
        self._placed = placed

    def __getitem__(self, name: str) -> Array:
        if name not in self._placed:
            return self._given[name]
        layout, part = self._placed[name]
        array = part.view(layout)
        # A caller may change what has just been checked, and kernels count with a bool's byte.
        return array.view(np.uint8) != 0 if array.dtype == np.bool_ else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def gather(plan: Plan, asked: Extras, given: Mapping[str, Array], regions: Regions) -> Work:
    """Binds a plan to the inputs that came and to what is registered now.

    Args:
        plan: of the request.
        asked: the plan's extras.
        given: the inputs that are not in shared memory.
        regions: where those are that do.

    Raises:
        NotFoundError, UnimplementedError: a region is not registered, or there may be none.
        InvalidRequestError: a place is not within its region, or outputs overlap.
        TensorError: BYTES that are none.
    """
    placed = {name: (layout, regions.find(place.region).part(place)) for name, (layout, place) in asked.inputs.items()}
    # Bytes of any kind are numbers, but not BYTES: these are read now, so that what is wrong with them is found now.
    texts = {name: part.view(layout) for name, (layout, part) in placed.items() if layout.datatype == "BYTES"}
    places = tuple(None if place is None else regions.find(place.region).part(place) for place in asked.outputs)
    _refuse_overlaps([part for part in places if part is not None])
    numbers = {name: source for name, source in placed.items() if name not in texts}
    inputs = Inputs(plan.names, {**given, **texts}, numbers)
    shared = bool(numbers)
    return Work(inputs, plan.size, plan.shape_key, plan.timeout_seconds, plan.priority, shared=shared, places=places)


def classified(
    asked: Extras, names: Sequence[str], outputs: Sequence[Array], labels: Sequence[Sequence[str]], *, batched: bool
) -> list[Array]:
    """Classifies the outputs of which that is wanted.

    Raises:
        InvalidRequestError: too many classes of an output whose shape nobody knew before.
    """
    for name, output, classes in zip(names, outputs, asked.classes, strict=True):
        classification.check_count(name, output.shape, classes, batched=batched)
    return [
        classification.top(output, classes, batched=batched, labels=own) if classes else output
        for output, classes, own in zip(outputs, asked.classes, labels, strict=True)
    ]


def put(answer: pb.ModelInferResponse, outputs: Sequence[Array], places: Sequence[Part | None]) -> list[Array]:
    """Puts outputs into shared memory, notes in the answer where they are, and gives what is left for the message.

    Raises:
        InvalidRequestError: an output is larger than its place, or a region's object has shrunk.
    """
    placed = [
        (message, part, tensors.encode(output))
        for message, output, part in zip(answer.outputs, outputs, places, strict=True)
        if part is not None
    ]
    for message, part, data in placed:
        extras.check_room(message.name, part.place, len(data))
        part.region.check()
    for message, part, data in placed:
        part.write(data)
        extras.tell_place(message.parameters, part.place, len(data))
    return [output if part is None else _ELSEWHERE for output, part in zip(outputs, places, strict=True)]


def _refuse_overlaps(parts: Sequence[Part]) -> None:
    for one, other in combinations(parts, 2):
        if one.overlaps(other):
            raise InvalidRequestError(f"outputs overlap in shared memory: {one.place} and {other.place}")
