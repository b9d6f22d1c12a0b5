"""Operators that only onnxruntime has: judged in float32, and said so."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import prepare, runtime, steps
from normserve_models.reference import Reference
from normserve_models.testing import Draft
from onnx import helper


def build(operator, inputs=(), domain="com.microsoft", dtype=np.float32, **attributes) -> onnx.ModelProto:
    """Conv -> BatchNormalization -> the operator."""
    draft = Draft(dtype=dtype)
    x = draft.node("Conv", draft.input("batch", 4, 6, 6, name="image"), draft.drawn(4, 4, 3, 3))
    constants = [draft.drawn(*shape) for shape in inputs]
    y = draft.node(operator, draft.norm(x, 4), *constants, name="last", domain=domain, **attributes)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        draft.nodes, "graph", draft.inputs, [helper.make_tensor_value_info(y, kind, None)], draft.initializers
    )
    imports = [helper.make_opsetid("", draft.opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


MODELS = {
    "Gelu": build("Gelu"),
    "Gelu, float16": build("Gelu", dtype=np.float16),
    "FusedConv": build("FusedConv", [(4, 4, 1, 1), (4,)], activation="Relu"),
    "FusedMatMul": build("FusedMatMul", [(4, 4)], alpha=0.5),
    "MeanVarianceNormalization": build("MeanVarianceNormalization", domain=""),  # onnx's reference knows float32 only
}


@pytest.mark.parametrize("case", MODELS)
def test_it_is_folded_and_the_report_says_how_it_was_judged(tmp_path, case) -> None:
    onnx.save(MODELS[case], tmp_path / "model.onnx")
    report = prepare.fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")
    assert report.folded == 1
    assert report.proof == f"Judged against float64 on drawn inputs, {case.split(',')[0]} not in float64 but in float32"


def test_a_wrong_fold_in_front_of_it_is_found(tmp_path, monkeypatch) -> None:
    onnx.save(MODELS["Gelu"], tmp_path / "model.onnx")
    right = steps.BACKWARD["Conv"]

    def wrong(node, affine, constants):
        return right(node, affine.after(1.001, 0.0), constants)

    monkeypatch.setitem(steps.BACKWARD, "Conv", wrong)
    with pytest.raises(runtime.ProofError, match=r"last\.y"):
        prepare.fold_file(tmp_path / "model.onnx", tmp_path / "folded.onnx")


def test_only_the_one_operator_is_narrow() -> None:
    """What comes before it is still exact, and what comes after it is float64 again."""
    reference = Reference(ir.from_proto(MODELS["Gelu"]))
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    [y] = reference.run({"image": x}).values()
    assert (y.dtype, reference.narrow) == (np.float64, {"Gelu"})
    np.testing.assert_array_equal(y, y.astype(np.float32))
