"""Requests for built-in models against what these take: a signature for each request, and its arguments beside its tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from normserve_proto import open_inference_pb2 as pb
from normserve_proto.tensors import Array, Buffer

from normserve_server import validation
from normserve_server.built_in import arguments
from normserve_server.built_in.operations import COUNT, INPUT, OUTPUT, Operation
from normserve_server.errors import InvalidRequestError
from normserve_server.servable import DYNAMIC, Signature, TensorSpec
from normserve_server.validation import Plan

DATATYPES = ("FP32", "FP16", "BF16", "FP64")
SHAPE = (DYNAMIC,)  # stands for any: the protocol has no way to say that a rank is free


@dataclass(frozen=True, slots=True)
class OperatorPlan(Plan):
    """A plan whose inputs include the operator's arguments.

    Attributes:
        arguments: by name.
    """

    arguments: Mapping[str, Array] = field(default_factory=dict)

    def view(self, raw: Sequence[Buffer]) -> dict[str, Array]:
        """Views raw contents as inputs; see `Plan`."""
        return {**Plan.view(self, raw), **self.arguments}

    def decode(self, message: pb.ModelInferRequest) -> dict[str, Array]:
        """Reads inputs from their typed contents; see `Plan`."""
        return {**Plan.decode(self, message), **self.arguments}


def signature(operation: Operation) -> Signature:
    """What an operator takes and gives, as ModelMetadata tells it: FP32 stands for all of `DATATYPES`, and `SHAPE` for all."""
    outputs = (OUTPUT, *operation.statistics(operation.optional))
    return Signature(_specs((INPUT, *operation.optional)), _specs(outputs), 0)


def plan(operation: Operation, whole: Signature, message: pb.ModelInferRequest) -> OperatorPlan:
    """Holds a request's head against an operator; whether the shapes fit each other is for the operator to say.

    Args:
        operation: the operator.
        whole: its `signature`.
        message: the request.

    Raises:
        InvalidRequestError: a name, datatype or parameter does not fit.
        TensorError, UnimplementedError: as `validation.plan`.
    """
    given = arguments.read(message.parameters, operation.arguments, operation.model)
    found = validation.plan(_narrowed(operation, whole, message, given), message)
    kept = {part.name: getattr(found, part.name) for part in fields(Plan)}
    kept["names"] = (*found.names, *given)
    # How long it takes is remembered by this key.
    kept["shape_key"] = (*found.shape_key, _datatypes(message), *(tuple(array.tobytes()) for array in given.values()))
    return OperatorPlan(**kept, arguments=given)


def _narrowed(operation: Operation, whole: Signature, message: pb.ModelInferRequest, given: Mapping[str, Array]) -> Signature:
    """The signature that a request itself describes."""
    names = [spec.name for spec in whole.inputs]
    for tensor in message.inputs:
        if tensor.name not in names:
            raise InvalidRequestError(f"unknown input '{tensor.name}'; the model has {', '.join(names)}")
        _check_datatype(tensor)
    specs = {tensor.name: TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in message.inputs}
    normalized = specs.get(INPUT, whole.inputs[0])  # where it is missing, that is found out next
    # Those that stay as they are come only where they are asked for.
    statistics = operation.statistics(specs) if operation.updates(given) or message.outputs else ()
    return Signature(
        (normalized, *(specs[name] for name in operation.optional if name in specs)),
        (replace(normalized, name=OUTPUT), *(specs[name] for name in statistics)),
        0,
    )


def _check_datatype(tensor: pb.ModelInferRequest.InferInputTensor) -> None:
    wanted = ("INT64",) if tensor.name == COUNT else DATATYPES
    if tensor.datatype not in wanted:
        raise InvalidRequestError(f"input '{tensor.name}' is {', '.join(wanted)}, got {tensor.datatype}")


def _datatypes(message: pb.ModelInferRequest) -> tuple[int, ...]:
    return tuple(DATATYPES.index(tensor.datatype) for tensor in message.inputs if tensor.name != COUNT)


def _specs(names: Sequence[str]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "INT64" if name == COUNT else DATATYPES[0], SHAPE) for name in names)
