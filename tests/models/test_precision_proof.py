"""The proof of 16 bits: what it passes, what it refuses, and how bfloat16 is emulated."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import graph, precision, runtime
from normserve_models.fold import fold
from normserve_models.precision_proof import Emulation, prove_precision
from normserve_models.runtime import ProofError
from normserve_models.testing import Draft
from normserve_models.zoo import digits_data
from onnx import TensorProto

HALF, BRAIN = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
BOTH = pytest.mark.parametrize("dtype", [HALF, BRAIN])
FLOORS = {HALF: 8e-3, BRAIN: 6e-2}


@pytest.fixture
def source(tmp_path):
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 6, 6, name="image"), draft.drawn(8, 3, 3, 3), pads=[1, 1, 1, 1])
    y = draft.node("Relu", draft.norm(y, 8))
    path = tmp_path / "source.onnx"
    onnx.save(draft.output(draft.norm(draft.node("Conv", y, draft.drawn(4, 8, 1, 1)), 4, name="last")), path)
    return path


def converted(source, dtype, change=None):
    """Fold and convert `source`; `change` gets the weights of the result."""
    model = graph.load(source)
    fold(model)
    precision.convert(model, dtype, {})
    if change is not None:
        for value in list(model.graph.initializers.values()):
            value.const_value = ir.Tensor(change(np.array(value.const_value.numpy())), name=value.name)
    path = source.with_name("converted.onnx")
    graph.save(model, path, "unused")
    return path


@BOTH
def test_a_right_conversion_passes(source, dtype) -> None:
    [error] = prove_precision(source, converted(source, dtype), dtype)
    assert error.name == "last.y"
    assert 0 < error.folded <= error.bound == max(FLOORS[dtype], 2 * error.unfolded)


@BOTH
def test_the_error_is_that_of_the_type(source, dtype) -> None:
    """Not of a float32 that was judged instead: about a unit of roundoff, 2^-11 or 2^-8."""
    roundoff = {HALF: 2**-11, BRAIN: 2**-8}[dtype]
    [error] = prove_precision(source, converted(source, dtype), dtype)
    for figure in (error.folded, error.unfolded):
        assert roundoff / 10 < figure < 10 * roundoff


@BOTH
@pytest.mark.parametrize("off", [0.5, 0.15])
def test_a_wrong_one_does_not(source, dtype, off) -> None:
    wrong = converted(source, dtype, lambda array: (array.astype(np.float64) * (1 + off)).astype(array.dtype))
    name = dtype.name.lower()
    with pytest.raises(
        ProofError, match=rf"in {name}, output 'last\.y': the folded file is off by .*, allowed is {FLOORS[dtype]:.3g}"
    ):
        prove_precision(source, wrong, dtype)


def test_a_tolerance_takes_the_place_of_the_bound(source) -> None:
    good = converted(source, HALF)
    assert prove_precision(source, good, HALF, tolerance=0.5)[0].bound == 0.5
    with pytest.raises(ProofError, match="allowed is 1e-09"):
        prove_precision(source, good, HALF, tolerance=1e-9)


def loud(tmp_path, factor):
    """An activation of about `factor` in the middle, and outputs of about 1."""
    draft = Draft()
    y = draft.node("MatMul", draft.input("batch", 20), draft.drawn(20, 20))
    y = draft.node("Mul", y, draft.constant(factor**0.5))
    y = draft.node("Mul", y, draft.constant(factor**0.5))
    path = tmp_path / "loud.onnx"
    onnx.save(draft.output(draft.node("Mul", y, draft.constant(1 / factor), name="last")), path)
    return path


def test_an_activation_that_overflows_is_found_though_the_unfolded_file_overflows_too(tmp_path) -> None:
    path = loud(tmp_path, 3e5)
    with pytest.raises(ProofError, match=r"output 'last\.y' is not finite in float16 where it is in float64: .* 65504"):
        prove_precision(path, converted(path, HALF), HALF)
    prove_precision(path, converted(path, BRAIN), BRAIN)


def test_where_the_unfolded_file_overflows_the_floor_is_the_bound(tmp_path) -> None:
    """Two biases of 60000 before a mean of 120000: the sum overflows, and the fold takes them away."""
    draft = Draft()
    y = draft.node("MatMul", draft.input("batch", 4), draft.drawn(4, 4))
    for _ in range(2):
        y = draft.node("Add", y, draft.constant(np.full(4, 6e4)))
    parameters = [draft.constant(np.full(4, value)) for value in (1.0, 0.0, 1.2e5, 1.0)]
    path = tmp_path / "large.onnx"
    onnx.save(draft.output(draft.node("BatchNormalization", y, *parameters)), path)
    [error] = prove_precision(path, converted(path, HALF), HALF)
    assert error.unfolded is None
    assert error.folded < error.bound == FLOORS[HALF]


def test_where_the_unfolded_file_cannot_be_converted_it_stands_for_itself(tmp_path) -> None:
    """A bias of 1e5 before a mean of 1e5: float16 does not hold them, and the fold takes them away."""
    draft = Draft()
    y = draft.node("MatMul", draft.input("batch", 4), draft.drawn(4, 4))
    y = draft.node("Add", y, draft.constant(np.full(4, 1e5)))
    parameters = [draft.constant(np.full(4, value)) for value in (1.0, 0.0, 1e5, 1.0)]
    path = tmp_path / "large.onnx"
    onnx.save(draft.output(draft.node("BatchNormalization", y, *parameters)), path)
    with pytest.raises(precision.PrecisionError, match="holds 100000"):
        precision.convert(graph.load(path), HALF, {})
    [error] = prove_precision(path, converted(path, HALF), HALF)
    assert error.folded < error.bound == FLOORS[HALF]


def test_samples_are_looked_at_too(source) -> None:
    good = converted(source, HALF)
    with pytest.raises(ProofError, match="not finite in float16"):
        prove_precision(source, good, HALF, samples={"image": np.full((1, 3, 6, 6), 1e5, np.float32)})


def test_progress_goes_to_one(source) -> None:
    seen: list[float] = []
    prove_precision(source, converted(source, HALF), HALF, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_file_that_does_not_run(source, tmp_path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ProofError, match=r"broken\.onnx: not an ONNX file"):
        prove_precision(source, tmp_path / "broken.onnx", HALF)


def test_the_emulation_rounds_each_result_to_its_type(tmp_path) -> None:
    draft = Draft(22)
    y = draft.node("Add", draft.input(2, name="x"), draft.constant([2.0**-8, 2.0**-10]))
    path = tmp_path / "sum.onnx"
    onnx.save(draft.output(draft.node("Sub", y, draft.constant([1.0, 1.0]))), path)
    interface = runtime.session(path)
    model = graph.load(path)
    precision.convert(model, BRAIN, {})
    [got] = Emulation(model, interface).run([interface.get_outputs()[0].name], {"x": np.ones(2, np.float32)})
    np.testing.assert_array_equal(got, [0, 0])  # 1 + 2^-8 is a tie, which goes to even
    [unrounded] = Emulation(graph.load(path), interface).run([interface.get_outputs()[0].name], {"x": np.ones(2, np.float32)})
    np.testing.assert_array_equal(unrounded, [2.0**-8, 2.0**-10])


def test_onnxruntime_still_refuses_bfloat16_on_the_cpu(tmp_path) -> None:
    """Where it does not any more, bfloat16 need not be emulated."""
    draft = Draft(22, dtype=ml_dtypes.bfloat16)
    path = tmp_path / "brain.onnx"
    x = draft.input(2)
    onnx.save(draft.output(draft.node("Add", x, x)), path)
    with pytest.raises(graph.SourceError, match="Could not find an implementation for Add"):
        runtime.session(path)


@BOTH
def test_digits_names_as_many_digits_in_16_bits(digits_repository, tmp_path, dtype) -> None:
    source = digits_repository / "digits" / "1" / "model.onnx"
    copy = tmp_path / "source.onnx"
    copy.write_bytes(source.read_bytes())
    path = converted(copy, dtype)
    images, labels = digits_data.held_out()
    [error] = prove_precision(source, path, dtype, samples={"image": images[:32]})
    assert error.folded <= FLOORS[dtype]
    plain = runtime.session(source)
    opened = runtime.session(path) if dtype is HALF else Emulation(graph.load(path), plain)
    [logits] = opened.run(["logits"], {"image": images})
    assert np.mean(logits.argmax(1) == labels) >= 0.98
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert kinds == {TensorProto.FLOAT16 if dtype is HALF else TensorProto.BFLOAT16}
