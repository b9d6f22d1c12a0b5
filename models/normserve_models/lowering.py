"""Which values of a model become 16 bits wide, and the rewriting of the graph around them.

A value is either low, of the new type, or wide, of the type that it has in the file:

    what an operator gives         as its schema has it
    what a Cast or a Constant gives, an initializer
                                   as those that use it want it; wide where they differ or do not care
    an input of the graph          wide
    an input of a body             wide where the node that holds the body stays wide

Where one that uses a value wants the other type, it gets that from a Cast beside the value, or from an initializer beside it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import onnx_ir as ir

from normserve_models import graph, value_types, wiring
from normserve_models.admission import FILLS, Admission, Want, is_constant, is_wide
from normserve_models.value_types import TYPE_ATTRIBUTES, bodies, retyped, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from normserve_models.admission import Wants


class PrecisionError(ValueError):
    """The model cannot be converted; the message names the constant or the value, and what is in the way."""


class Plan:
    """What each value of a model becomes.

    Args:
        model: The model, without functions, its nodes in topological order.
        dtype: FLOAT16 or BFLOAT16.

    Raises:
        PrecisionError: The type of a value is not known, or a sequence would have to be cast.
    """

    def __init__(self, model: ir.Model, dtype: ir.DataType) -> None:
        self.dtype = dtype
        self._main = model.graph
        self._opsets = graph.opsets(model)
        self._names = wiring.Names(model)
        self.nodes = list(model.graph.all_nodes())
        self._require_types()
        admission = Admission(self.nodes, self._opsets, dtype)
        self.wants: dict[ir.Node, Wants] = {node: admission.wants(node) for node in self.nodes}
        stay = (
            node for node in self.nodes if Want.WIDE in (*self.wants[node].inputs.values(), *self.wants[node].outputs.values())
        )
        self._kept = {self._main, *(body for node in stay for body in bodies(node))}
        self.values = list(dict.fromkeys(value for body in model.graphs() for value in _values(body) if is_wide(value)))
        self._wide = {value: value.dtype for value in self.values if value.dtype is not None}
        self._outputs = [(body, index) for body in model.graphs() for index in range(len(body.outputs))]
        self._demands = self._demanded()
        self._low = {value for value in self.values if self._becomes_low(value)}
        self._require_castable()

    def _require_types(self) -> None:
        for node in self.nodes:
            schema = schema_of(node, self._opsets)
            for index, value in enumerate(node.outputs):
                formal = None if schema is None else value_types.parameter(schema.outputs, index)
                floats = formal is None or {f"tensor({kind})" for kind in ("float", "double")} & formal.types
                if value.type is None and value.name and floats:
                    raise PrecisionError(f"the type of {value.name!r}, which {graph.label(node)!r} gives, is not known")

    def _demanded(self) -> Mapping[ir.Value, set[Want]]:
        demands: defaultdict[ir.Value, set[Want]] = defaultdict(set)
        for node, wants in self.wants.items():
            for index, want in wants.inputs.items():
                value = node.inputs[index]
                assert value is not None  # noqa: S101 - only inputs that are there want a type
                demands[value].add(want)
        for body, index in self._outputs:
            demands[body.outputs[index]].add(self._of_output(body))
        return demands

    def _of_output(self, body: ir.Graph) -> Want:
        return Want.WIDE if body in self._kept else Want.LOW

    def _becomes_low(self, value: ir.Value) -> bool:
        node = value.producer()
        if node is None and not is_constant(value):
            return value.graph not in self._kept
        want = Want.ANY if node is None else self.wants[node].outputs[_index(value)]
        if want is Want.ANY:
            return Want.LOW in self._demands[value] and Want.WIDE not in self._demands[value]
        return want is Want.LOW

    def _require_castable(self) -> None:
        for value in self.values:
            if not isinstance(value.type, ir.TensorType) and self._needs_other(value):
                name = self.dtype.name.lower()
                raise PrecisionError(f"{value.name!r} is a sequence, which cannot be cast to or from {name} where it has to be")

    def _needs_other(self, value: ir.Value) -> bool:
        return (Want.WIDE if value in self._low else Want.LOW) in self._demands[value]

    def is_low(self, value: ir.Value) -> bool:
        """Tell whether a value becomes low."""
        return value in self._low

    def is_both(self, value: ir.Value) -> bool:
        """Tell whether an initializer stays as it is and gets another one of the new type beside it."""
        return value.is_initializer() and is_constant(value) and value not in self._low and self._needs_other(value)

    def fills(self) -> list[ir.Value]:
        """Return the initializers, and the outputs of nodes that hold a tensor, of which there has to be a low one."""
        return [value for value in self.values if self.is_both(value) or (value in self._low and _is_fill(value))]

    def apply(self, tensors: Mapping[ir.Value, ir.TensorProtocol]) -> None:
        """Rewrite the model.

        Args:
            tensors: What each of `fills` holds, in the new type.
        """
        for value in self.values:
            if value in self._low:
                self._lower(value, tensors.get(value))
            else:
                self._keep(value)
        for value in self.values:
            if self._needs_other(value):
                self._give_other(value, tensors.get(value))

    def _lower(self, value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
        assert value.type is not None  # noqa: S101 - wide values have types
        value.type = retyped(value.type, self.dtype)
        node = value.producer()
        if tensor is not None and node is None:
            value.const_value = tensor
        elif tensor is not None and node is not None:
            node.attributes.clear()
            node.attributes["value"] = ir.AttrTensor("value", tensor)
        elif node is not None:
            self._set_type(node, self.dtype)

    def _keep(self, value: ir.Value) -> None:
        """Spell the type of an output out where it would follow that of an input which becomes low."""
        node = value.producer()
        if (
            node is not None
            and value.dtype is not None
            and any(given in self._low for given in node.inputs if given is not None)
        ):
            self._set_type(node, value.dtype)

    def _set_type(self, node: ir.Node, dtype: ir.DataType) -> None:
        """Make an attribute say the type of the output, where the operator has one for that."""
        schema = schema_of(node, self._opsets)
        for name in TYPE_ATTRIBUTES:
            if schema is not None and name in schema.attributes:
                node.attributes[name] = ir.AttrInt64(name, int(dtype))

    def _give_other(self, value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
        """Give those that want a value in the other type a value of their own."""
        wanted = Want.WIDE if value in self._low else Want.LOW
        places = [(body, index) for body, index in self._outputs if body.outputs[index] is value]
        places = [(body, index) for body, index in places if self._of_output(body) is wanted]
        other = self._beside(value, tensor, interface=any(body is self._main for body, _ in places))
        for use in value.uses():
            if use.node in self.wants and self.wants[use.node].inputs.get(use.idx) is wanted:
                use.node.replace_input_with(use.idx, other)
        for body, index in places:
            body.outputs[index] = other

    def _beside(self, value: ir.Value, tensor: ir.TensorProtocol | None, *, interface: bool) -> ir.Value:
        """Make a value of the other type; as an output of the main graph it takes the name that callers know."""
        name = str(value.name)
        dtype = self._wide[value] if value in self._low else self.dtype
        if interface:
            value.name = self._names.fresh(f"{name}.{self.dtype.name.lower()}")
        else:
            name = self._names.fresh(f"{name}.{dtype.name.lower()}")
        assert value.type is not None  # noqa: S101 - wide values have types
        other = ir.Value(name=name, type=retyped(value.type, dtype), shape=value.shape, const_value=tensor)
        if tensor is None:
            _insert_cast(value, other)
        else:
            assert value.graph is not None  # noqa: S101 - an initializer belongs to a graph
            value.graph.register_initializer(other)
        return other


def _insert_cast(value: ir.Value, other: ir.Value) -> None:
    """Put a Cast from `value` to `other` right behind what gives `value`."""
    assert other.dtype is not None  # noqa: S101 - it was made with one
    name = f"{other.name}.cast"
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(other.dtype))], outputs=[other], name=name)
    producer, body = value.producer(), value.graph
    if producer is not None and producer.graph is not None:
        producer.graph.insert_after(producer, cast)
    elif body is not None and len(body):
        body.insert_before(body[0], cast)
    elif body is not None:
        body.append(cast)


def _values(body: ir.Graph) -> Iterator[ir.Value]:
    yield from body.inputs
    yield from body.initializers.values()
    for node in body:
        yield from node.outputs


def _index(value: ir.Value) -> int:
    index = value.index()
    assert index is not None  # noqa: S101 - asked of outputs of nodes only
    return index


def _is_fill(value: ir.Value) -> bool:
    node = value.producer()
    return is_constant(value) if node is None else node.op_type in FILLS and node.domain in graph.OWN_DOMAINS
