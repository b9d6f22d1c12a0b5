"""Every operator that takes a batch norm in, in every form that breaks things elsewhere."""

import itertools

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from normserve_models import testing
from normserve_models.measure import relative_error
from normserve_models.testing import Draft

CONVS = [
    dict(zip(("rank", "groups", "bias", "stride", "pads", "dilation"), combination, strict=True))
    for combination in itertools.product(
        (1, 2, 3), (1, 2, 4), (False, True), (1, 2), ("none", "zero", "uneven", "same"), (1, 2)
    )
    if combination[4:] != ("same", 2)  # onnxruntime does not run it
]


def everything_folds(model: onnx.ModelProto, *operators: str) -> onnx.ModelProto:
    """The batch norms are gone, onnxruntime runs the result, and it is as exact as float32 allows."""
    result, norms = testing.folded(model)
    assert all(norm.folded for norm in norms)
    assert testing.operators(result) == list(operators)
    if model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
        session = onnxruntime.InferenceSession(result.SerializeToString(), providers=["CPUExecutionProvider"])
        batch = testing.draw_inputs(model)
        for name, wanted in testing.answers(model, batch).items():
            assert relative_error(session.run([name], batch)[0], wanted) <= 2e-6
    return result


def padding(pads: str, rank: int) -> dict[str, object]:
    return {
        "none": {},
        "zero": {"pads": [1] * 2 * rank},
        "uneven": {"pads": [0] * rank + [2] * rank},
        "same": {"auto_pad": "SAME_UPPER"},
    }[pads]


@pytest.mark.parametrize("case", CONVS, ids=lambda case: "-".join(map(str, case.values())))
def test_conv(case) -> None:
    rank, groups = case["rank"], case["groups"]
    draft = Draft()
    x = draft.input("batch", 4, *[7] * rank)
    weight = draft.drawn(8, 4 // groups, *[2] * rank)
    bias = [draft.drawn(8)] if case["bias"] else []
    sizes = {"strides": [case["stride"]] * rank, "dilations": [case["dilation"]] * rank}
    y = draft.node("Conv", x, weight, *bias, group=groups, **sizes, **padding(case["pads"], rank))
    everything_folds(draft.output(draft.norm(y, 8)), "Conv")


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(4, 6, 1), (4, 4, 1), (4, 6, 2), (4, 4, 4), (4, 8, 4)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", [{}, {"strides": 2, "output_padding": 1}, {"strides": 2, "pads": 1, "dilations": 2}])
def test_conv_transpose(rank, inputs, outputs, groups, bias, form) -> None:
    """C_in = C_out is where torch's freezing scales the wrong axis."""
    draft = Draft()
    x = draft.input("batch", inputs, *[4] * rank)
    weight = draft.drawn(inputs, outputs // groups, *[3] * rank)
    extra = [draft.drawn(outputs)] if bias else []
    attributes = {name: [size] * (2 * rank if name == "pads" else rank) for name, size in form.items()}
    y = draft.node("ConvTranspose", x, weight, *extra, group=groups, **attributes)
    everything_folds(draft.output(draft.norm(y, outputs)), "ConvTranspose")


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (-1.5, 0.0)])
@pytest.mark.parametrize("bias", [None, (), (1,), (4,), (1, 4), (3, 1), (3, 4)])
def test_gemm(trans_a, trans_b, alpha, beta, bias) -> None:
    draft = Draft()
    x = draft.input(*((5, 3) if trans_a else (3, 5)))
    weight = draft.drawn(*((4, 5) if trans_b else (5, 4)))
    extra = [] if bias is None else [draft.drawn(*bias)]
    y = draft.node("Gemm", x, weight, *extra, transA=trans_a, transB=trans_b, alpha=alpha, beta=beta)
    everything_folds(draft.output(draft.norm(y, 4)), "Gemm")


def test_matmul() -> None:
    draft = Draft()
    y = draft.node("MatMul", draft.input("batch", 5), draft.drawn(5, 4))
    everything_folds(draft.output(draft.norm(y, 4)), "Gemm")


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (1, 1)])
@pytest.mark.parametrize("swapped", [False, True])
def test_matmul_and_add(shape, swapped) -> None:
    draft = Draft()
    y = draft.node("MatMul", draft.input("batch", 5), draft.drawn(5, 4))
    operands = (draft.drawn(*shape), y) if swapped else (y, draft.drawn(*shape))
    everything_folds(draft.output(draft.norm(draft.node("Add", *operands), 4)), "Gemm")


@pytest.mark.parametrize("shape", [(), (6, 1, 1), (1, 6, 1, 1)])
def test_conv_and_add(shape) -> None:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(6, 3, 3, 3))
    y = draft.node("Add", y, draft.drawn(*shape))
    everything_folds(draft.output(draft.norm(y, 6)), "Conv")


def test_batch_norms_in_a_row_go_as_one_map() -> None:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(6, 3, 3, 3))
    everything_folds(draft.output(draft.norm(draft.norm(draft.norm(y, 6), 6), 6)), "Conv")


def test_batch_norms_in_a_row_merge_into_the_first_where_nothing_takes_them() -> None:
    draft = Draft()
    y = draft.node("Relu", draft.input("batch", 3, 5, 5))
    model = draft.output(draft.norm(draft.norm(draft.norm(y, 3, name="first"), 3), 3))
    result, norms = testing.folded(model)
    assert testing.operators(result) == ["Relu", "BatchNormalization"]
    assert [norm.folded for norm in norms] == [False, True, True]
    assert norms[1].into == norms[2].into == ["first"]


@pytest.mark.parametrize("opset", [9, 11, 13, 14, 15, 18, 20, 22, 24])
@pytest.mark.parametrize("as_nodes", [False, True])
def test_opsets_and_constant_nodes(opset, as_nodes) -> None:
    draft = Draft(opset, as_nodes=as_nodes)
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(6, 3, 3, 3), draft.drawn(6))
    everything_folds(draft.output(draft.norm(y, 6, epsilon=0.1)), "Conv")


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("own", [None, np.float32, np.float64], ids=["same", "float32", "float64"])
def test_types_of_the_batch_norm_may_differ_from_those_of_the_weights(operator, dtype, own) -> None:
    """float16 weights under float32 statistics: onnxscript and onnxslim write an invalid model."""
    draft = Draft(22, dtype)
    spatial = () if operator in {"Gemm", "MatMul"} else (4, 4)
    kernel = () if operator in {"Gemm", "MatMul"} else (2, 2)
    weight = draft.drawn(4, 4, *kernel)
    y = draft.norm(draft.node(operator, draft.input("batch", 4, *spatial), weight), 4, dtype=own)
    result = everything_folds(draft.output(y), "Gemm" if operator == "MatMul" else operator)
    assert {tensor.data_type for tensor in result.graph.initializer} == {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}


@pytest.mark.parametrize("variance", [0.0, 5.6e-45, 9.8e7])
def test_extreme_statistics(variance) -> None:
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 2, 4, 4), draft.drawn(3, 2, 1, 1))
    parameters = [draft.constant(np.full(3, value)) for value in (1.0, 0.5, 0.25, variance)]
    everything_folds(draft.output(draft.node("BatchNormalization", y, *parameters)), "Conv")


def test_a_bias_as_large_as_the_mean_cancels_exactly() -> None:
    """1e4 - 1e4 in float32 loses four digits; in float64 it does not."""
    draft = Draft()
    bias, ones = draft.constant(np.full(3, 1e4 + 0.5)), draft.constant(np.ones(3))
    y = draft.node("Conv", draft.input("batch", 2, 4, 4), draft.drawn(3, 2, 1, 1), bias)
    zeros, mean = draft.constant(np.zeros(3)), draft.constant(np.full(3, 1e4))
    everything_folds(draft.output(draft.node("BatchNormalization", y, ones, zeros, mean, ones)), "Conv")


def test_weights_are_rounded_once() -> None:
    """Folding in float32 leaves four weights in ten off by a unit or two in the last place."""
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(16, 3, 3, 3))
    model = draft.output(draft.norm(draft.norm(y, 16), 16))
    result, _ = testing.folded(model)
    weight, gamma1, _, _, var1, gamma2, _, _, var2 = (
        onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer
    )
    epsilon = float(np.float32(1e-5))
    scale = (gamma2 / np.sqrt(var2 + epsilon)) * (gamma1 / np.sqrt(var1 + epsilon))
    exact = (weight * scale[:, None, None, None]).astype(np.float32)
    [written] = [onnx.numpy_helper.to_array(t) for t in result.graph.initializer if len(t.dims) == 4]
    assert np.array_equal(written, exact)


def test_exporters_write_constants_as_small_graphs() -> None:
    draft = Draft()
    x = draft.input("batch", 3, 5, 5)
    weight = draft.node("Identity", draft.drawn(6, 3, 3, 3))
    shape = draft.node("Shape", weight, start=0, end=1)
    x = draft.node("Relu", x)
    zero = draft.node("CastLike", draft.constant(0, dtype=np.float64), x)
    y = draft.node("Conv", x, weight, draft.node("Expand", zero, shape))
    model = draft.output(draft.norm(y, 6))
    del model.graph.value_info[:]
    assert len(everything_folds(model, "Relu", "Conv").graph.initializer) == 2


def test_a_transposed_weight_folds() -> None:
    draft = Draft()
    weight = draft.node("Transpose", draft.drawn(4, 5), perm=[1, 0])
    y = draft.node("Add", draft.node("MatMul", draft.input("batch", 5), weight), draft.drawn(4))
    everything_folds(draft.output(draft.norm(y, 4)), "Gemm")


def test_affine_false_as_torch_writes_it() -> None:
    """Ones and zeros expanded to the channels of the very value that is normalized: only its type and shape are read."""
    draft = Draft()
    y = draft.node("Gemm", draft.input("batch", 5), draft.drawn(5, 4))
    shape = draft.node("Shape", y, start=1, end=2)
    gamma, beta = (
        draft.node("Expand", draft.node("CastLike", draft.constant([value], dtype=np.float64), y), shape) for value in (1, 0)
    )
    norm = draft.node("BatchNormalization", y, gamma, beta, draft.drawn(4), draft.constant([1, 2, 3, 4]))
    result = everything_folds(draft.output(norm), "Gemm")
    assert len(result.graph.node) == 1
