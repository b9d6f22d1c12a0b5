"""Requests and answers whose big tensors are in a slot, as pure functions but for the slot's memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors
from normserve_proto.tensors import Array, Buffer, Layout, TensorError

from normserve import answers, requests
from normserve.requests import Call, Inference
from normserve.slots import ALIGNMENT, Slot

Place = tuple[int, int]  # offset in the slot, and bytes

SMALLEST_BYTES = 64 * 1024  # of a tensor that goes through shared memory; the message is as fast for a smaller one
_REGION, _OFFSET, _BYTE_SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: its outputs, and the version that gave them.

    Attributes:
        version: likewise.
        outputs: by name, read-only.
        memory: a slot's, of which outputs are views; None where all of them came in the message.
    """

    version: str
    outputs: dict[str, Array]
    memory: Array | None = None

    def copied(self) -> "Answer":
        """Gives the answer without the slot."""
        outputs = {name: array.copy() for name, array in self.outputs.items()}
        for array in outputs.values():
            array.flags.writeable = False
        return Answer(self.version, outputs)

    def sizes(self) -> dict[str, int]:
        """Gives the bytes that each output takes; 0 for BYTES, which take others every time."""
        return {name: 0 if array.dtype == object else array.nbytes for name, array in self.outputs.items()}


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where in a slot each tensor is; None for one that is in the message.

    Attributes:
        inputs: by name.
        outputs: by name; empty where it is not known which there will be.
        byte_size: of all; 0 where all tensors are in the message.
    """

    inputs: Mapping[str, Place | None]
    outputs: Mapping[str, Place | None]
    byte_size: int

    @classmethod
    def of(cls, request: Inference, sizes: Mapping[str, int]) -> "Arrangement":
        """Arranges a request's inputs, and outputs of these sizes by name, one behind the other."""
        end = 0

        def place(size: int) -> Place | None:
            nonlocal end
            if size < SMALLEST_BYTES:
                return None
            start, end = end, end + -(-size // ALIGNMENT) * ALIGNMENT
            return start, size

        inputs = {tensor.name: place(len(raw)) for tensor, raw in zip(request.message.inputs, request.raw, strict=True)}
        outputs = {name: place(size) for name, size in sizes.items()}
        return cls(inputs, outputs, end)

    @property
    def receives(self) -> bool:
        """Whether outputs are to come through the slot."""
        return any(self.outputs.values())

    def call(self, request: Inference, slot: Slot) -> Call[Answer]:
        """Puts the inputs into the slot, and gives the call that tells of them."""
        message = pb.ModelInferRequest()
        message.CopyFrom(request.message)
        left = []
        for tensor, raw in zip(message.inputs, request.raw, strict=True):
            place = self.inputs[tensor.name]
            if place is None:
                left.append(raw)
            else:
                slot.write(place[0], raw)
                _tell(tensor.parameters, slot, place)
        self._ask(message, slot)
        return Call(requests.MODEL_INFER, requests.joined(message, left), lambda data: self._read(data, slot))

    def _ask(self, message: pb.ModelInferRequest, slot: Slot) -> None:
        if self.receives and not message.outputs:  # whoever names one output has to name all
            message.outputs.extend(message.InferRequestedOutputTensor(name=name) for name in self.outputs)
        for output in message.outputs:
            if place := self.outputs.get(output.name):
                _tell(output.parameters, slot, place)

    def _read(self, data: bytes, slot: Slot) -> Answer:
        response, raw = answers.split(data)
        if len(raw) != len(response.outputs):
            raise TensorError(f"{len(response.outputs)} outputs but {len(raw)} raw contents")
        memory = slot.memory() if self.receives else None
        outputs = {output.name: self._output(output, own, memory) for output, own in zip(response.outputs, raw, strict=True)}
        return Answer(response.model_version, outputs, memory)

    def _output(self, output: pb.ModelInferResponse.InferOutputTensor, own: Buffer, memory: Array | None) -> Array:
        layout = Layout.of(output.name, output.datatype, output.shape)
        place = self.outputs.get(output.name)
        if place is None or memory is None:
            return layout.view(own)
        written = layout.count * layout.dtype.itemsize
        if _BYTE_SIZE in output.parameters:
            written = output.parameters[_BYTE_SIZE].int64_param
        return layout.view(memory[place[0] : place[0] + written].data)


def through_message(request: Inference) -> Call[Answer]:
    """Gives the call with all tensors in the message."""
    return Call(requests.MODEL_INFER, requests.joined(request.message, request.raw), _read)


def _read(data: bytes) -> Answer:
    response, raw = answers.split(data)
    return Answer(response.model_version, tensors.decode_all(response.outputs, raw))


def _tell(parameters: Any, slot: Slot, place: Place) -> None:
    parameters[_REGION].string_param = slot.name
    parameters[_OFFSET].int64_param, parameters[_BYTE_SIZE].int64_param = place
