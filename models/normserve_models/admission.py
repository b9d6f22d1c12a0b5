"""Which inputs and outputs of a node may be of a 16-bit type, by the schema of its operator.

Inputs and outputs that share a type variable change together. Where the schema does not admit the type for one, it stays as
it is: the scales of a Resize, the boxes of a NonMaxSuppression, everything of an operator that ONNX does not know. What is
computed from the shapes of tensors stays as it is too: a size of 2049 is no number of float16, nor 257 one of bfloat16.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx_ir as ir

from normserve_models.graph import BATCH_NORM, OWN_DOMAINS
from normserve_models.value_types import bodies, parameter, retyped, schema_of, string

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
SIZES = frozenset(("Shape", "Size"))
# What gives the type that an attribute says. EyeLike, the random ones and the windows do so too, but onnxruntime has no kernels
# of them that give 16 bits.
TYPED = frozenset(("Cast", "Constant", "ConstantOfShape", "DequantizeLinear"))
FILLS = frozenset(("Constant", "ConstantOfShape"))  # whose type is that of a tensor among their attributes
CONTROL_FLOW = frozenset(("If", "Loop", "Scan", "SequenceMap"))
VARIANCE = 4  # the input of a batch norm


class Want(Enum):
    """In what type a node takes an input, or gives an output."""

    LOW = "the 16-bit type"
    WIDE = "the type that the file has"
    ANY = "either: an operator such as Cast does not care"


@dataclass(frozen=True)
class Wants:
    """What a node wants of its wide inputs and outputs, by their index."""

    inputs: Mapping[int, Want]
    outputs: Mapping[int, Want]


def is_wide(value: ir.Value | None) -> bool:
    """Tell whether a value is of float32 or float64, or a sequence of such."""
    return value is not None and value.type is not None and value.dtype in WIDE


def is_constant(value: ir.Value) -> bool:
    """Tell whether a value is an initializer that no caller can override, or a Constant node's."""
    if value.is_initializer():
        return not value.is_graph_input()
    node = value.producer()
    return node is not None and node.op_type == "Constant" and node.domain in OWN_DOMAINS


class Admission:
    """Answers for the nodes of one model.

    Args:
        nodes: All of the model, each behind those that it reads from.
        opsets: The opset of each domain.
        dtype: FLOAT16 or BFLOAT16.
    """

    def __init__(self, nodes: Iterable[ir.Node], opsets: Mapping[str, int], dtype: ir.DataType) -> None:
        self._opsets = opsets
        self._dtype = dtype
        self._sizes: set[ir.Value] = set()
        for node in nodes:
            if self._gives_sizes(node):
                self._sizes.update(node.outputs)

    def _gives_sizes(self, node: ir.Node) -> bool:
        if node.domain not in OWN_DOMAINS or bodies(node):
            return False
        if node.op_type in SIZES:
            return True
        data = [value for value in self._data(node) if not is_constant(value)]
        return bool(data) and all(value in self._sizes for value in data)

    def _data(self, node: ir.Node) -> list[ir.Value]:
        """Return the inputs whose type the output has, such as the first of an Expand; all, where there is none."""
        schema = schema_of(node, self._opsets)
        given = [(index, value) for index, value in enumerate(node.inputs) if value is not None]
        if schema is None or not schema.outputs:
            return [value for _, value in given]
        variable = schema.outputs[0].type_str
        shared = [value for index, value in given if parameter(schema.inputs, index).type_str == variable]
        return shared or [value for _, value in given]

    def wants(self, node: ir.Node) -> Wants:
        """Return what a node wants of each input and output that is wide."""
        schema = schema_of(node, self._opsets)
        inputs = {index: value for index, value in enumerate(node.inputs) if value is not None and is_wide(value)}
        outputs = {index: value for index, value in enumerate(node.outputs) if is_wide(value)}
        if schema is None or _is_tied(node):
            return Wants(dict.fromkeys(inputs, Want.WIDE), dict.fromkeys(outputs, Want.WIDE))
        groups: defaultdict[str, Group] = defaultdict(Group)
        for index, value in inputs.items():
            groups[(formal := parameter(schema.inputs, index)).type_str].take(index, value, formal.types, output=False)
        for index, value in outputs.items():
            groups[(formal := parameter(schema.outputs, index)).type_str].take(index, value, formal.types, output=True)
        decided = self._decide(node, list(groups.values()))
        return Wants(
            {index: want for group, want in decided for index in group.inputs},
            {index: want for group, want in decided for index in group.outputs},
        )

    def _decide(self, node: ir.Node, groups: list[Group]) -> list[tuple[Group, Want]]:
        """Decide for the data first: what else a node takes may depend on it."""
        whole = bool(bodies(node)) or any(not isinstance(value.type, ir.TensorType) for group in groups for value in group)
        if whole:  # what goes into a body or a sequence comes out of it
            admitted = all(group.admits(self._dtype) for group in groups)
            return [(group, Want.LOW if admitted else Want.WIDE) for group in groups]
        first = [(group, self._of_data(node, group)) for group in groups if group.outputs]
        beside = any(want is Want.LOW for _, want in first)
        return first + [(group, self._of_others(node, group, beside=beside)) for group in groups if not group.outputs]

    def _of_data(self, node: ir.Node, group: Group) -> Want:
        if not group.inputs:
            return Want.ANY if node.op_type in TYPED and group.admits(self._dtype) else Want.WIDE
        return self._unless_sizes(group)

    def _of_others(self, node: ir.Node, group: Group, *, beside: bool) -> Want:
        if len(group.inputs) == 1 and not beside and group.admits(self._dtype):
            return Want.ANY
        if all(is_constant(value) for value in group) and _loses(node, group, self._dtype):
            return Want.WIDE
        return self._unless_sizes(group)

    def _unless_sizes(self, group: Group) -> Want:
        data = [value for value in group.inputs.values() if not is_constant(value)]
        sizes = bool(data) and all(value in self._sizes for value in data)
        return Want.LOW if group.admits(self._dtype) and not sizes else Want.WIDE


def _is_tied(node: ir.Node) -> bool:
    """Tell whether a node holds tensors, or a body that is no control flow, whose types would have to follow its inputs."""
    if node.op_type in FILLS and node.domain in OWN_DOMAINS:
        return False
    tensors = (attribute for attribute in node.attributes.values() if attribute.type is ir.AttributeType.TENSOR)
    return any(tensor.as_tensor().dtype in WIDE for tensor in tensors) or bool(
        bodies(node) and node.op_type not in CONTROL_FLOW
    )


def _loses(node: ir.Node, group: Group, dtype: ir.DataType) -> bool:
    """Tell whether constants are better left as they are, where the schema gives them a type of their own.

    A variance of 1e-9 would be 0 in float16, and the batch norm then scale by another number. Other small values are summands.
    """
    limits = ml_dtypes.finfo(dtype.numpy())  # type: ignore[no-untyped-call] # untyped upstream
    for index, value in group.inputs.items():
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            continue
        size = np.abs(tensor.numpy().astype(np.float64))
        small = node.op_type == BATCH_NORM and index == VARIANCE and bool((size < float(limits.tiny)).any())
        if small or float(size.max(initial=0.0)) > float(limits.max):
            return True
    return False


class Group:
    """The wide inputs and outputs of a node that share a type variable."""

    def __init__(self) -> None:
        self.inputs: dict[int, ir.Value] = {}
        self.outputs: dict[int, ir.Value] = {}
        self._allowed: list[tuple[ir.Value, set[str]]] = []

    def take(self, index: int, value: ir.Value, allowed: set[str], *, output: bool) -> None:
        """Add a value, of which the schema says which types it may have."""
        (self.outputs if output else self.inputs)[index] = value
        self._allowed.append((value, allowed))

    def __iter__(self) -> Iterator[ir.Value]:
        return (value for value, _ in self._allowed)

    def admits(self, dtype: ir.DataType) -> bool:
        """Tell whether the schema allows `dtype` for all."""
        return all(value.type is not None and string(retyped(value.type, dtype)) in allowed for value, allowed in self._allowed)
