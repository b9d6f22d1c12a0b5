"""Raise the opset of a file for the types that its operators admit, where that changes nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from normserve_models.graph import OWN_DOMAINS, opsets
from normserve_models.value_types import schema_of

if TYPE_CHECKING:
    from onnx.defs import OpSchema

# Conv, ConvTranspose and the pools admit bfloat16 from this version on.
WITH_BFLOAT16 = 22
# What an operator has gained since opset 13 beside types, with a default that is what it did before.
HARMLESS = {
    "AveragePool": {"dilations"},
    "Cast": {"saturate"},
    "CastLike": {"saturate"},
    "GRU": {"layout"},
    "LSTM": {"layout"},
    "LpPool": {"ceil_mode", "dilations"},
    "RNN": {"layout"},
    "Reshape": {"allowzero"},
    "Shape": {"start", "end"},
}


def raise_for_bfloat16(model: ir.Model, dtype: ir.DataType) -> None:
    """Raise the opset to 22 for bfloat16, where every operator of the model means the same there.

    Args:
        model: The model, without functions.
        dtype: What the model is to become; for others than BFLOAT16 nothing happens.
    """
    before = opsets(model)
    if dtype is not ir.DataType.BFLOAT16 or not 13 <= before.get("", 0) < WITH_BFLOAT16:
        return
    after = {**before, "": WITH_BFLOAT16}
    own = [node for node in model.graph.all_nodes() if node.domain in OWN_DOMAINS]
    if all(_same(node, schema_of(node, before), schema_of(node, after)) for node in own):
        for domain in OWN_DOMAINS & model.opset_imports.keys():
            model.opset_imports[domain] = WITH_BFLOAT16


def _same(node: ir.Node, before: OpSchema | None, after: OpSchema | None) -> bool:
    """Tell whether two versions of an operator differ in no more than types, or in what a node does not use."""
    if before is None or after is None:
        return False
    if before.since_version == after.since_version:
        return True
    gained = after.attributes.keys() - before.attributes.keys()
    return (
        _names(before) == _names(after)
        and gained <= HARMLESS.get(node.op_type, set())
        and not before.attributes.keys() - after.attributes.keys()
        and all(_default(before, name) == _default(after, name) for name in before.attributes)
    )


def _names(schema: OpSchema) -> list[list[str]]:
    return [[formal.name for formal in formals] for formals in (schema.inputs, schema.outputs)]


def _default(schema: OpSchema, name: str) -> bytes:
    value: bytes = schema.attributes[name].default_value.SerializeToString()
    return value
