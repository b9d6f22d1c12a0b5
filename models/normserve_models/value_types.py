"""The types of the values of a graph, by the schemas of its operators.

A file need not say what type a value between two nodes has. A schema ties the types of inputs and outputs together by type
variables; where an output's variable is bound by no input, an attribute or a body of the node gives its type.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from normserve_models.graph import OWN_DOMAINS, opsets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnx.defs import OpSchema

Type = ir.TypeProtocol

# What gives the element type of an output, in Cast, EyeLike and the random ones, the windows, DequantizeLinear.
TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")
IMPLIED = {"SequenceEmpty": int(ir.DataType.FLOAT)}  # where the attribute is absent; the schema says so in words only
_STRINGS = {ir.DataType.FLOAT: "float", ir.DataType.DOUBLE: "double"}
_DTYPES = {_STRINGS.get(dtype, dtype.name.lower()): dtype for dtype in ir.DataType}
_WRAPPERS = {"seq": ir.SequenceType, "optional": ir.OptionalType}


def string(kind: Type) -> str:
    """Return a type as schemas write it, "tensor(float16)" or "seq(tensor(float))"."""
    for name, wrapper in _WRAPPERS.items():
        if isinstance(kind, wrapper):
            return f"{name}({string(kind.elem_type)})"
    name = _STRINGS.get(kind.dtype, kind.dtype.name.lower())
    return f"sparse_tensor({name})" if isinstance(kind, ir.SparseTensorType) else f"tensor({name})"


def retyped(kind: Type, dtype: ir.DataType) -> Type:
    """Return the type with another element type."""
    inner = kind.elem_type
    element = dtype if isinstance(inner, ir.DataType) else retyped(inner, dtype)
    return type(kind)(element, denotation=kind.denotation)  # type: ignore[call-arg] # as all of them are made


def schema_of(node: ir.Node, versions: Mapping[str, int]) -> OpSchema | None:
    """Return the schema of a node's operator at the opsets of its file, or None where ONNX does not know it."""
    domain = "" if node.domain in OWN_DOMAINS else node.domain
    try:
        return onnx.defs.get_schema(node.op_type, versions.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return None


def parameter(formal: Sequence[OpSchema.FormalParameter], index: int) -> OpSchema.FormalParameter:
    """Return what the schema says of an input or output; the last one may stand for many."""
    return formal[min(index, len(formal) - 1)]


def infer(model: ir.Model) -> None:
    """Give every value its type where it lacks one and the schemas tell it; what they do not tell stays unknown."""
    versions = opsets(model)
    for node in _bodies_first(model.graph):
        if any(value.type is None for value in node.outputs):
            _infer(node, schema_of(node, versions))


def _bodies_first(graph: ir.Graph) -> Iterable[ir.Node]:
    """Yield the nodes of a graph in their order, those of a node's bodies before the node itself."""
    for node in graph:
        for body in bodies(node):
            _pass_in(node, body)
            yield from _bodies_first(body)
        yield node


def bodies(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs in the attributes of a node."""
    attributes = node.attributes.values()
    single = [attribute.as_graph() for attribute in attributes if attribute.type is ir.AttributeType.GRAPH]
    several = [attribute.as_graphs() for attribute in attributes if attribute.type is ir.AttributeType.GRAPHS]
    return [*single, *itertools.chain.from_iterable(several)]


def _pass_in(node: ir.Node, body: ir.Graph) -> None:
    """Give the inputs of a Loop's or Scan's body the types of what the node is given."""
    if node.op_type not in {"Loop", "Scan"}:
        return
    for inner, outer in zip(body.inputs, node.inputs, strict=False):
        if inner.type is None and outer is not None:
            inner.type = outer.type


def _infer(node: ir.Node, schema: OpSchema | None) -> None:
    if schema is None:
        return
    bound = {
        parameter(schema.inputs, index).type_str: value.type
        for index, value in enumerate(node.inputs)
        if value is not None and value.type is not None
    }
    for index, value in enumerate(node.outputs):
        if value.type is None and value.name:
            value.type = _output(node, index, schema, bound)


def _output(node: ir.Node, index: int, schema: OpSchema, bound: Mapping[str, Type]) -> Type | None:
    formal = parameter(schema.outputs, index)
    if len(formal.types) == 1:
        return _parsed(next(iter(formal.types)))
    if (inner := _body_output(node, index)) is not None and inner.type is not None:
        return _wrapped(formal.types, [inner.type])
    if (dtype := _by_attribute(node, schema)) is not None:
        return _wrapped(formal.types, [ir.TensorType(dtype)])
    return bound.get(formal.type_str) or _wrapped(formal.types, bound.values())


def _body_output(node: ir.Node, index: int) -> ir.Value | None:
    for body in bodies(node):
        position = index + (1 if node.op_type == "Loop" else 0)  # the first output of a Loop's body is its condition
        if position < len(body.outputs):
            return body.outputs[position]
    return None


def _by_attribute(node: ir.Node, schema: OpSchema) -> ir.DataType | None:
    if node.op_type in {"Constant", "ConstantOfShape"} and node.domain in OWN_DOMAINS:
        return _of_constant(node)
    for name in TYPE_ATTRIBUTES:
        if name in schema.attributes:
            default = schema.attributes[name].default_value.i or IMPLIED.get(node.op_type, 0)
            return ir.DataType(node.attributes.get_int(name, default)) or None
    return None


def _of_constant(node: ir.Node) -> ir.DataType | None:
    attribute = next(iter(node.attributes.values()), None)
    if attribute is None:
        return ir.DataType.FLOAT  # of a ConstantOfShape
    if attribute.type is ir.AttributeType.TENSOR:
        return attribute.as_tensor().dtype
    kinds = {"value_float": ir.DataType.FLOAT, "value_int": ir.DataType.INT64, "value_string": ir.DataType.STRING}
    return kinds.get(attribute.name.removesuffix("s"))


def _parsed(text: str) -> Type | None:
    outer, _, inner = text.removesuffix(")").partition("(")
    if outer == "tensor":
        return ir.TensorType(_DTYPES[inner])
    element = _parsed(inner) if outer in _WRAPPERS else None
    return None if element is None else _WRAPPERS[outer](element)


def _wrapped(allowed: Iterable[str], given: Iterable[Type]) -> Type | None:
    """Return what a sequence of the given type is, or what an element of the given sequence is, whichever is allowed."""
    for kind in given:
        inner = getattr(kind, "elem_type", None)
        for candidate in (kind, ir.SequenceType(kind), ir.OptionalType(kind), inner):
            if candidate is not None and not isinstance(candidate, ir.DataType) and string(candidate) in allowed:
                return candidate
    return None
