"""What a model would answer if its arithmetic were exact: every float of the file, and every operation, in float64.

Node by node over the graph. Heavy operators have kernels in kernels.py; all others, control flow included, are run by
onnx's reference implementation on a copy of the node whose own floats are widened. Values are dropped after their last
use, so that the memory is that of the widest place of the model.
"""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from normserve_models.constants import FLOATS
from normserve_models.graph import OWN_DOMAINS, opsets
from normserve_models.kernels import KERNELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from normserve_models.kernels import Array

NARROW = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT}
SHAKEN = {"BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul"}  # sums of many products, each of them rounded
TYPE_ATTRIBUTES = {"to", "dtype"}  # of Cast, EyeLike, RandomNormal and the like


class NoReferenceError(Exception):
    """An operator cannot be evaluated in float64; the message names it."""


class Reference:
    """Evaluates one model in float64.

    Args:
        model: The model.
        shake: Makes every constant and every result of the operators that `SHAKEN` names wrong by this share of itself, up or
            down by chance: what a model answers whose numbers are rounded, in a way that no implementation has in common with
            another. Parker, "Monte Carlo arithmetic" (1997).
        seed: Of that chance.
    """

    def __init__(self, model: ir.Model, *, shake: float = 0.0, seed: int = 0) -> None:
        if model.functions:
            from onnx_ir.passes import common  # noqa: PLC0415 - for few files

            common.InlinePass()(model)
        self.narrow: set[str] = set()  # operators that were run in float32, for want of a float64 reference
        self._graph = model.graph
        self._opsets = opsets(model)
        self._shake = shake
        self._chance = np.random.default_rng(seed)
        self._last = {value: node for node in model.graph for value in _reads(node)}

    def run(
        self,
        inputs: Mapping[str, Array],
        progress: Callable[[float], None] | None = None,
        see: Callable[[str, Array], None] | None = None,
    ) -> dict[str, Array]:
        """Return the outputs for `inputs`.

        Args:
            inputs: By name; float arrays are widened.
            progress: Called with the share done, 0 to 1, after each node.
            see: Called with the name and the content of each value of the main graph that a node gives, as it is computed.

        Raises:
            NoReferenceError: An operator is not known, or fails on these inputs.
        """
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # infinities and NaN are answers like others
            warnings.simplefilter("ignore")
            return self._evaluate(inputs, progress, see)

    def _evaluate(
        self,
        inputs: Mapping[str, Array],
        progress: Callable[[float], None] | None,
        see: Callable[[str, Array], None] | None,
    ) -> dict[str, Array]:
        held = {value: widened(inputs[str(value.name)]) for value in self._graph.inputs if value.name in inputs}
        outputs = set(self._graph.outputs)
        for number, node in enumerate(self._graph, start=1):
            results = dict(zip(node.outputs, self._run(node, held), strict=False))
            held.update(results)
            if see is not None:
                _show(results, see)
            for value in {value for value in _reads(node) if self._last[value] is node} - outputs:
                held.pop(value, None)
            if progress is not None:
                progress(number / len(self._graph))
        return {str(value.name): _get(value, held) for value in self._graph.outputs}

    def _run(self, node: ir.Node, held: dict[ir.Value, Array]) -> list[Array]:
        if not self._shake or node.op_type not in SHAKEN:
            return self._compute(node, held)
        constants = {value: _get(value, held) for value in node.inputs if value is not None and value not in held}
        rough = {value: self._shaken(array) for value, array in constants.items()}
        return [self._shaken(array) for array in self._compute(node, {**held, **rough})]

    def _shaken(self, array: Array) -> Array:
        return array * (1 + self._shake * self._chance.choice((-1.0, 1.0), array.shape))

    def _compute(self, node: ir.Node, held: dict[ir.Value, Array]) -> list[Array]:
        inputs = [None if value is None else _get(value, held) for value in node.inputs]
        kernel = KERNELS.get(node.op_type) if node.domain in OWN_DOMAINS else None
        plain = not any(value.name for value in node.outputs[1:])
        try:
            result = kernel(node, inputs) if kernel is not None and plain else None
            return [result] if result is not None else self._by_onnx(node, held)
        except Exception as error:
            found = self._in_float32(node, held)
            if found is None:
                raise NoReferenceError(f"{node.op_type} {node.name!r}: {' '.join(str(error).split())}") from error
            self.narrow.add(node.op_type)
            return found

    def _in_float32(self, node: ir.Node, held: dict[ir.Value, Array]) -> list[Array] | None:
        from normserve_models import fallback  # noqa: PLC0415 - for few files

        fixed = {str(value.name): _get(value, held) for value in _reads(node) if value.const_value is not None}
        feeds = {str(value.name): held[value] for value in _reads(node) if value in held and str(value.name) not in fixed}
        try:
            return [widened(array) for array in fallback.run(node, fixed, feeds, self._opsets)]
        except Exception:  # noqa: BLE001 - onnxruntime's errors have no common base, and the first error tells more
            return None

    def _by_onnx(self, node: ir.Node, held: dict[ir.Value, Array]) -> list[Array]:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - memory that the sessions before can do without

        proto = widen(ir.to_proto(node))
        feeds = {str(value.name): _get(value, held) for value in _reads(node) if _known(value, held)}
        outputs = [str(value.name) for value in node.outputs if value.name]
        graph = onnx.helper.make_graph(
            [proto],
            "node",
            [onnx.ValueInfoProto(name=name) for name in feeds],
            [onnx.ValueInfoProto(name=name) for name in outputs],
        )
        found = dict(zip(outputs, ReferenceEvaluator(graph, opsets=self._opsets).run(None, feeds), strict=True))
        return [widened(found[str(value.name)]) if value.name else np.zeros(0) for value in node.outputs]


def _show(results: Mapping[ir.Value, Array], see: Callable[[str, Array], None]) -> None:
    for value, array in results.items():
        see(str(value.name), array)


def widened(value: Any) -> Any:
    """Return floats as float64, and anything else, sequences and absent optionals included, as it is."""
    if not isinstance(value, np.ndarray | np.generic):
        return value
    array = np.asarray(value)
    narrow = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float64) if narrow else array


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values that a node reads, those that its bodies capture included."""
    bodies = itertools.chain.from_iterable(_bodies(attribute) for attribute in node.attributes.values())
    inner = itertools.chain.from_iterable(body.all_nodes() for body in bodies)
    values = itertools.chain(node.inputs, *(child.inputs for child in inner))
    return (value for value in values if value is not None)


def _bodies(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type is ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type is ir.AttributeType.GRAPHS else []


def _known(value: ir.Value, held: dict[ir.Value, Array]) -> bool:
    return value in held or value.const_value is not None


def _get(value: ir.Value, held: dict[ir.Value, Array]) -> Array:
    if value in held:
        return held[value]
    if value.const_value is None:
        raise NoReferenceError(f"the input {value.name!r} was not given")
    array = value.const_value.numpy()
    return array.astype(np.float64) if value.const_value.dtype in FLOATS else array


def widen(node: onnx.NodeProto) -> onnx.NodeProto:
    """Make all floats in the attributes of a node float64, its bodies included."""
    for attribute in node.attribute:
        if attribute.name in TYPE_ATTRIBUTES and attribute.i in NARROW:
            attribute.i = onnx.TensorProto.DOUBLE
        for tensor in (attribute.t, *attribute.tensors):
            _widen_tensor(tensor)
        for body in (attribute.g, *attribute.graphs):
            for tensor in body.initializer:
                _widen_tensor(tensor)
            for child in body.node:
                widen(child)
    return node


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in NARROW:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
