"""What a request's tensors ask for in their parameters: to lie in shared memory, or to be classified."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import DTYPES, Layout

from normserve_server import classification
from normserve_server.errors import InvalidRequestError
from normserve_server.parameters import Parameters, natural, value
from normserve_server.servable import DYNAMIC, Signature, TensorSpec
from normserve_server.shared_memory import Place

_REGION = "shared_memory_region"
_BYTE_SIZE = "shared_memory_byte_size"
_OFFSET = "shared_memory_offset"
_CLASSIFICATION = "classification"
_NOT_CLASSIFIED = {"BYTES", "BOOL"}


@dataclass(frozen=True, slots=True)
class Extras:
    """What a request asks for that most do not.

    Attributes:
        inputs: by name, how and where the inputs in shared memory lie.
        outputs: where each requested output goes; None for into the message.
        classes: of how many classes each requested output tells; 0 for its elements as they are.
    """

    inputs: Mapping[str, tuple[Layout, Place]]
    outputs: tuple[Place | None, ...]
    classes: tuple[int, ...]


def read(
    signature: Signature, message: pb.ModelInferRequest, layouts: Sequence[Layout], outputs: Sequence[int], size: int
) -> Extras | None:
    """Reads the parameters of a request's tensors.

    Args:
        signature: the model's.
        message: the request.
        layouts: its inputs, in order.
        outputs: the positions of the outputs that it asks for, in order.
        size: samples in it.

    Returns:
        What they ask for; None for nothing.

    Raises:
        InvalidRequestError: a parameter is not what it has to be, or contradicts its tensor or another parameter.
    """
    inputs = {
        layout.name: (layout, place)
        for tensor, layout in zip(message.inputs, layouts, strict=True)
        if (place := _input_place(tensor, layout)) is not None
    }
    specs = [signature.outputs[position] for position in outputs] if message.outputs else []
    shapes = [(size, *spec.shape[1:]) if signature.max_batch_size else spec.shape for spec in specs]
    places = [_output_place(t, spec, shape) for t, spec, shape in zip(message.outputs, specs, shapes, strict=True)]
    classes = [_classes(tensor, spec) for tensor, spec in zip(message.outputs, specs, strict=True)]
    for spec, shape, count in zip(specs, shapes, classes, strict=True):
        if DYNAMIC not in shape:  # else it is asked when the shape is known
            classification.check_count(spec.name, shape, count, batched=signature.max_batch_size > 0)
    if not inputs and not any(classes) and all(place is None for place in places):
        return None
    none = len(outputs) - len(specs)  # all of them where none was named
    return Extras(inputs, (*places, *[None] * none), (*classes, *[0] * none))


def _input_place(tensor: pb.ModelInferRequest.InferInputTensor, layout: Layout) -> Place | None:
    place = _place(tensor.parameters, f"input '{tensor.name}'")
    if place is None:
        return None
    if tensor.HasField("contents"):
        raise InvalidRequestError(f"input '{tensor.name}' has contents although it is in shared memory; give one of them")
    takes = layout.count * layout.dtype.itemsize
    if layout.datatype != "BYTES" and place.byte_size != takes:
        raise InvalidRequestError(
            f"input '{tensor.name}': {layout.datatype} of shape {list(layout.shape)} takes {takes} bytes, "
            f"got {_BYTE_SIZE} {place.byte_size}"
        )
    return place


def _output_place(
    tensor: pb.ModelInferRequest.InferRequestedOutputTensor, spec: TensorSpec, shape: tuple[int, ...]
) -> Place | None:
    place = _place(tensor.parameters, f"output '{tensor.name}'")
    if place is None or spec.datatype == "BYTES" or DYNAMIC in shape:
        return place
    check_room(tensor.name, place, math.prod(shape) * DTYPES[spec.datatype].itemsize)
    return place


def check_room(name: str, place: Place, takes: int) -> None:
    """Refuses an output that is too large for its place.

    Raises:
        InvalidRequestError: it takes more bytes than there are.
    """
    if takes > place.byte_size:
        raise InvalidRequestError(f"output '{name}' takes {takes} bytes, got {_BYTE_SIZE} {place.byte_size}")


def tell_place(parameters: Parameters, place: Place, written: int) -> None:
    """Writes into an answer's output where it is, and how many bytes it takes there."""
    parameters[_REGION].string_param = place.region
    parameters[_BYTE_SIZE].int64_param = written
    if place.offset:
        parameters[_OFFSET].int64_param = place.offset


def _place(parameters: Parameters, whose: str) -> Place | None:
    if not parameters:
        return None
    if (_REGION in parameters) != (_BYTE_SIZE in parameters) or (_OFFSET in parameters and _REGION not in parameters):
        given = ", ".join(key for key in (_REGION, _BYTE_SIZE, _OFFSET) if key in parameters)
        raise InvalidRequestError(f"{whose}: {_REGION} and {_BYTE_SIZE} go together, got only {given}")
    if _REGION not in parameters:
        return None
    region = value(parameters[_REGION])
    if not isinstance(region, str):
        raise InvalidRequestError(f"{whose}: parameter '{_REGION}' is a string, got {region!r}")
    return Place(region, natural(parameters, _OFFSET, whose), natural(parameters, _BYTE_SIZE, whose))


def _classes(tensor: pb.ModelInferRequest.InferRequestedOutputTensor, spec: TensorSpec) -> int:
    if _CLASSIFICATION not in tensor.parameters:
        return 0
    whose = f"output '{tensor.name}'"
    classes = natural(tensor.parameters, _CLASSIFICATION, whose)
    if not classes:
        raise InvalidRequestError(f"{whose}: parameter '{_CLASSIFICATION}' is the number of classes, > 0, got 0")
    if spec.datatype in _NOT_CLASSIFIED:
        raise InvalidRequestError(f"{whose} is {spec.datatype}, which has no classes")
    if _REGION in tensor.parameters:
        raise InvalidRequestError(f"{whose}: {_CLASSIFICATION} cannot go into shared memory; ask for one of them")
    return classes
