"""A request against a model's signature: what comes out of here can be run.

First its head becomes a `Plan`, which is all that does not depend on the tensors' content; then raw contents are bound to the
plan. Nothing behind this point asks again whether names, datatypes, shapes and sizes fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors
from normserve_proto.tensors import Array, Buffer, TensorError

from normserve_server import extras, parameters
from normserve_server.errors import InvalidRequestError, UnimplementedError
from normserve_server.extras import Extras
from normserve_server.parameters import Parameters
from normserve_server.servable import DYNAMIC, Signature, TensorSpec
from normserve_server.shared_memory import Part

_SEQUENCE = "sequence_id"
_EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"  # says nothing to a model with one answer a request


class Work(NamedTuple):
    """A request that can be run.

    Attributes:
        inputs: arrays by name, in the signature's order; read-only views of the message, or of memory that is `shared`.
        size: samples, at least 1; 1 where the model has no batch axis.
        shape_key: equal for requests that can run in one batch.
        timeout_seconds: longest stay in the queue, > 0; None for any.
        priority: 1 is the highest; 0 for the model's default.
        shared: whether inputs are views of memory that others may write to or take away: to be looked up and copied at once.
        places: where each requested output goes, None for into the message; empty where all go into the message.
    """

    inputs: Mapping[str, Array]
    size: int
    shape_key: tuple[tuple[int, ...], ...]
    timeout_seconds: float | None
    priority: int = 0
    shared: bool = False
    places: Sequence[Part | None] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A request without its tensors' content, held against a signature: what every request with the same head has in common.

    Attributes:
        signature: what it was held against.
        layouts: how the inputs lie in the raw contents, in the message's order; those in shared memory are not among them.
        names: the inputs' names in the signature's order.
        outputs: positions, in the signature's outputs, of what was asked for, in that order.
        size: as `Work` has it; `shape_key`, `timeout_seconds` and `priority` likewise.
        extras: what its tensors ask for beyond being in the message; None for nothing.
    """

    signature: Signature
    layouts: tuple[tensors.Layout, ...]
    names: tuple[str, ...]
    outputs: tuple[int, ...]
    size: int
    shape_key: tuple[tuple[int, ...], ...]
    timeout_seconds: float | None
    priority: int = 0
    extras: Extras | None = None

    def view(self, raw: Sequence[Buffer]) -> dict[str, Array]:
        """Views raw contents as inputs.

        Raises:
            TensorError: the number of entries, or the size of one, is not what the shapes take.
        """
        if len(raw) != len(self.layouts):
            names = [layout.name for layout in self.layouts]
            raise TensorError(f"{len(names)} tensors {names} but {len(raw)} raw contents")
        return {layout.name: layout.view(entry) for layout, entry in zip(self.layouts, raw, strict=True)}

    def decode(self, message: pb.ModelInferRequest) -> dict[str, Array]:
        """Reads inputs from their typed contents.

        Raises:
            TensorError: there are none, or they are not what the shape takes.
        """
        here = {layout.name for layout in self.layouts}
        return tensors.decode_all([tensor for tensor in message.inputs if tensor.name in here], ())

    def work(self, given: Mapping[str, Array]) -> Work:
        """Puts decoded inputs in the signature's order; for a plan without extras."""
        inputs = given if tuple(given) == self.names else {name: given[name] for name in self.names}
        return Work(inputs, self.size, self.shape_key, self.timeout_seconds, self.priority)


def plan(signature: Signature, message: pb.ModelInferRequest) -> Plan:
    """Holds a request's head against a signature.

    Raises:
        InvalidRequestError: a name, datatype, shape, size or parameter does not fit.
        TensorError: a shape that no tensor can have.
        UnimplementedError: sequences, which this server does not offer.
    """
    timeout, priority = _queueing(message.parameters)
    names = tuple(spec.name for spec in signature.inputs)
    _check_names(names, [tensor.name for tensor in message.inputs])
    for tensor in message.inputs:
        _check_tensor(_spec(signature.inputs, tensor.name), tensor.datatype, tensor.shape)
    layouts = tuple(tensors.Layout.of(tensor.name, tensor.datatype, tensor.shape) for tensor in message.inputs)
    shapes = {layout.name: layout.shape for layout in layouts}
    first = 1 if signature.max_batch_size else 0
    size, outputs = _size(signature, shapes), _outputs(signature, message)
    wanted = extras.read(signature, message, layouts, outputs, size)
    return Plan(
        signature=signature,
        layouts=layouts if wanted is None else tuple(layout for layout in layouts if layout.name not in wanted.inputs),
        names=names,
        outputs=outputs,
        size=size,
        shape_key=tuple(shapes[name][first:] for name in names),
        timeout_seconds=timeout,
        priority=priority,
        extras=wanted,
    )


def has_contents(message: pb.ModelInferRequest) -> bool:
    """Whether an input carries its elements in typed fields."""
    return any(tensor.HasField("contents") for tensor in message.inputs)


def _queueing(given: Parameters) -> tuple[float | None, int]:
    """The queue timeout in seconds, and the priority; refuses what is reserved or of the wrong kind on the way."""
    if not given:
        return None, 0
    for key, parameter in given.items():
        if key.startswith("triton_") and key != _EMPTY_FINAL_RESPONSE:
            raise InvalidRequestError(f"parameter '{key}': names that begin with triton_ are reserved")
        if key == _SEQUENCE and parameters.value(parameter) not in {0, ""}:
            raise UnimplementedError("parameter 'sequence_id': sequences are not served")
    microseconds = parameters.natural(given, "timeout", unit="microseconds")
    return microseconds / 1e6 if microseconds else None, parameters.natural(given, "priority")


def _check_names(wanted: Sequence[str], given: Sequence[str]) -> None:
    unknown = [name for name in given if name not in wanted]
    if unknown:
        raise InvalidRequestError(f"unknown input '{unknown[0]}'; the model has {', '.join(wanted)}")
    missing = [name for name in wanted if name not in given]
    if missing:
        raise InvalidRequestError(f"missing input '{missing[0]}'; got {', '.join(given) or 'none'}")
    if len(given) > len(wanted):
        twice = next(name for name in given if given.count(name) > 1)
        raise InvalidRequestError(f"input '{twice}' is given twice")


def _spec(specs: Sequence[TensorSpec], name: str) -> TensorSpec:
    return next(spec for spec in specs if spec.name == name)


def _check_tensor(spec: TensorSpec, datatype: str, shape: Sequence[int]) -> None:
    if datatype != spec.datatype:
        raise InvalidRequestError(f"input '{spec.name}' is {spec.datatype}, got {datatype}")
    fits = len(shape) == len(spec.shape) and all(
        wanted in {DYNAMIC, extent} for wanted, extent in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise InvalidRequestError(f"input '{spec.name}' has shape {list(spec.shape)}, got {list(shape)}")


def _size(signature: Signature, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if not signature.max_batch_size:
        return 1
    sizes = {name: shape[0] for name, shape in shapes.items()}
    size = next(iter(sizes.values()))
    if any(other != size for other in sizes.values()):
        raise InvalidRequestError(f"inputs differ in batch size: {', '.join(f'{k} has {v}' for k, v in sizes.items())}")
    if not 0 < size <= signature.max_batch_size:
        name = next(iter(sizes))
        raise InvalidRequestError(f"input '{name}': batch of {size} samples, the model takes 1 to {signature.max_batch_size}")
    return size


def _outputs(signature: Signature, message: pb.ModelInferRequest) -> tuple[int, ...]:
    names = [spec.name for spec in signature.outputs]
    if not message.outputs:
        return tuple(range(len(names)))
    wanted = [output.name for output in message.outputs]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise InvalidRequestError(f"unknown output '{unknown[0]}'; the model has {', '.join(names)}")
    if len(set(wanted)) < len(wanted):
        raise InvalidRequestError(f"an output is asked for twice: {', '.join(wanted)}")
    return tuple(names.index(name) for name in wanted)
