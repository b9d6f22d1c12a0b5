"""Rounding, and what is a constant."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normserve_models.constants import DEEPEST, Constants, fits, rounded
from normserve_models.legality import Reason, StaysError
from normserve_models.testing import Draft


@given(st.floats(-1e30, 1e30))
def test_bfloat16_is_rounded_to_nearest_once(value) -> None:
    got = float(rounded(np.array([value]), ir.DataType.BFLOAT16)[0])
    near = ml_dtypes.bfloat16(value)
    candidates = [near, *(np.nextafter(near, ml_dtypes.bfloat16(end)) for end in (-np.inf, np.inf))]
    assert abs(got - value) == min(abs(float(candidate) - value) for candidate in candidates)


def test_bfloat16_just_above_the_middle_goes_up() -> None:
    """Through float32 it would be rounded to the middle first, and to even then."""
    assert float(rounded(np.array([1 + 2**-8 + 2**-40]), ir.DataType.BFLOAT16)[0]) == 1 + 2**-7


@pytest.mark.parametrize(
    ("dtype", "largest"), [(ir.DataType.FLOAT16, 65504), (ir.DataType.FLOAT, 3.4028234e38), (ir.DataType.BFLOAT16, 3.389e38)]
)
def test_fits(dtype, largest) -> None:
    assert fits(np.array([largest, -largest]), dtype)
    assert fits(np.zeros(0), dtype)
    assert not any(fits(np.array([value]), dtype) for value in (largest * 1.01, -largest * 1.01, np.inf, np.nan))


def the_operand(draft: Draft, value: str) -> tuple[ir.Node, Constants]:
    model = ir.from_proto(draft.output(draft.node("Neg", value, name="it")))
    [node] = [node for node in model.graph if node.name == "it"]
    return node, Constants(dict(model.opset_imports))


def test_a_chain_of_pure_operators_is_a_constant() -> None:
    draft = Draft()
    draft.input("batch", 1)
    value = draft.node("Transpose", draft.node("Identity", draft.constant([[1.0, 2.0]])), perm=[1, 0])
    node, constants = the_operand(draft, value)
    np.testing.assert_array_equal(constants.require(node, 0), [[1.0], [2.0]])


def test_a_hostile_chain_ends() -> None:
    draft = Draft()
    value = draft.constant([1.0])
    for _ in range(DEEPEST * 100):
        value = draft.node("Identity", value)
    node, constants = the_operand(draft, value)
    with pytest.raises(StaysError) as caught:
        constants.require(node, 0)
    assert caught.value.reason is Reason.BLOCKED


def test_integers_are_no_weights() -> None:
    draft = Draft(dtype=np.int32)
    node, constants = the_operand(draft, draft.constant([1]))
    with pytest.raises(StaysError) as caught:
        constants.require(node, 0)
    assert caught.value.reason is Reason.DTYPE
