"""Normalization in front of a graph: what callers send, what the graph gets, and what is refused."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import normalize_input
from normserve_models.normalize_input import NormalizationError
from normserve_models.reference import Reference
from normserve_models.testing import Draft
from onnx import TensorProto, helper

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def network(*, dtype=np.float32, shape=("batch", 3, 4, 4)) -> onnx.ModelProto:
    draft = Draft(dtype=dtype)
    x = draft.input(*shape, name="image")
    return draft.output(draft.node("Relu", x, name="first"), draft.node("Neg", x, name="second"))


def inserted(source: onnx.ModelProto, mean=MEAN, std=STD, **options) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Insert into a copy; return it, checked, and the exact constants by name."""
    model = ir.from_proto(source)
    exact = normalize_input.insert(model, mean, std, **options)
    result = ir.to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    assert all(value is model.graph.initializers[value.name] for value in exact)
    return result, {value.name: array for value, array in exact.items()}


def answers(model: onnx.ModelProto, **inputs) -> dict[str, np.ndarray]:
    return Reference(ir.from_proto(model)).run(inputs)


@pytest.mark.parametrize("dtype", [ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.FLOAT16, None])
def test_callers_send_what_they_have(dtype) -> None:
    source = network()
    result, _ = inserted(source, dtype=dtype)
    kind = (dtype or ir.DataType.FLOAT).numpy()
    sent = np.random.default_rng(0).integers(0, 100, (2, 3, 4, 4)).astype(kind)
    normalized = (sent.astype(np.float64) - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    wanted, got = answers(source, image=normalized), answers(result, image=sent)
    for name in ("first.y", "second.y"):
        np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=1e-6)  # the constants of the file are float32


@pytest.mark.parametrize("dtype", [ir.DataType.UINT8, None])
def test_the_input_keeps_its_name_place_and_shape(dtype) -> None:
    draft = Draft()
    other, x = draft.input("batch", 3, name="other"), draft.input("batch", 3, 4, 4, name="image")
    source = draft.output(draft.node("Relu", other), draft.node("Relu", x))
    result, _ = inserted(source, input_name="image", dtype=dtype)
    assert [value.name for value in result.graph.input] == ["other", "image"]
    assert result.graph.input[0] == source.graph.input[0]
    kind = result.graph.input[1].type.tensor_type
    assert kind.shape == source.graph.input[1].type.tensor_type.shape
    assert kind.elem_type == (dtype or TensorProto.FLOAT)
    assert result.graph.output == source.graph.output


def test_the_names_say_what_is_there() -> None:
    result, exact = inserted(network(), dtype=ir.DataType.UINT8)
    assert [(node.op_type, node.name, list(node.input)) for node in result.graph.node][:3] == [
        ("Cast", "image.cast", ["image"]),
        ("Sub", "image.centered", ["image.cast", "image.mean"]),
        ("Div", "image.normalized", ["image.centered", "image.std"]),
    ]
    assert {name: array.shape for name, array in exact.items()} == {"image.mean": (1, 3, 1, 1), "image.std": (1, 3, 1, 1)}


def test_inserting_twice_takes_other_names() -> None:
    once, _ = inserted(network())
    twice, exact = inserted(once)
    assert set(exact) == {"image.mean.2", "image.std.2"}
    assert [node.op_type for node in twice.graph.node] == ["Sub", "Div", "Sub", "Div", "Relu", "Neg"]


def test_the_constants_are_given_as_they_were_said() -> None:
    _, exact = inserted(network())
    np.testing.assert_array_equal(exact["image.mean"].reshape(-1), np.array(MEAN))
    np.testing.assert_array_equal(exact["image.std"].reshape(-1), np.array(STD))
    assert (exact["image.mean"] != exact["image.mean"].astype(np.float32)).all(), "the test cannot tell exact from rounded"


def test_no_cast_to_the_type_that_it_is() -> None:
    result, _ = inserted(network(), dtype=ir.DataType.FLOAT)
    assert [node.op_type for node in result.graph.node] == ["Sub", "Div", "Relu", "Neg"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_constants_are_of_the_type_of_the_input(dtype) -> None:
    result, _ = inserted(network(dtype=dtype), dtype=ir.DataType.UINT8)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert [tensor.data_type for tensor in result.graph.initializer] == [kind] * 2
    assert result.graph.node[0].attribute[0].i == kind


@pytest.mark.parametrize(
    ("shape", "wanted"), [(("batch", 3), (1, 3)), (("batch", 3, 9), (1, 3, 1)), (("n", 3, 2, 2, 2), (1, 3, 1, 1, 1))]
)
def test_any_rank_from_2_on(shape, wanted) -> None:
    _, exact = inserted(network(shape=shape))
    assert exact["image.mean"].shape == exact["image.std"].shape == wanted


def test_one_value_is_for_all_channels() -> None:
    _, exact = inserted(network(), mean=[0.0], std=STD)
    np.testing.assert_array_equal(exact["image.mean"].reshape(-1), [0, 0, 0])


@pytest.mark.parametrize("mean", [MEAN, [5.0]])
def test_channels_that_are_free(mean) -> None:
    result, _ = inserted(network(shape=("batch", "channels", 2, 2)), mean=mean)
    sent = np.ones((1, 3, 2, 2), np.float32)
    wanted = (1 - np.broadcast_to(mean, 3)) / STD
    np.testing.assert_allclose(answers(result, image=sent)["second.y"][0, :, 0, 0], -wanted, rtol=1e-6)


def test_bodies_that_capture_the_input_get_the_normalized_one() -> None:
    branches = {
        name: helper.make_graph(
            [helper.make_node(op_type, ["image"], [f"{name}.y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)],
        )
        for name, op_type in (("then_branch", "Identity"), ("else_branch", "Neg"))
    }
    draft = Draft()
    draft.input(1, 1, name="image")
    source = draft.output(draft.node("If", draft.input(name="go", dtype=np.bool_), name="if", **branches))
    result, _ = inserted(source, mean=[1.0], std=[2.0], input_name="image")
    assert answers(result, image=np.full((1, 1), 5, np.float32), go=np.array(True))["if.y"] == 2


def refused(says: str, source=None, mean=MEAN, std=STD, **options) -> None:
    model = ir.from_proto(network() if source is None else source)
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(NormalizationError) as caught:
        normalize_input.insert(model, mean, std, **options)
    assert str(caught.value) == says
    assert ir.to_proto(model).SerializeToString() == before


def test_lists_that_do_not_fit() -> None:
    refused("mean has 2 values, wanted 1 or 3", mean=[1, 2])
    refused("std has 4 values, wanted 1 or 3", std=[1, 2, 3, 4])
    refused("mean has 0 values, wanted 1 or 3", mean=[])
    free = network(shape=("batch", "channels"))
    refused("mean has 3 values and std has 2, wanted as many", free, std=[1, 2])
    refused("std has 0 values, wanted 1 or one a channel", free, std=[])


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
def test_a_std_that_divides_badly(value) -> None:
    refused(f"std holds {value}, wanted finite numbers greater than 0", std=[1, value, 1])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_mean_that_is_not_finite(value) -> None:
    refused(f"mean holds {value}, wanted finite numbers", mean=[1, value, 1])


def test_values_that_the_type_of_the_input_does_not_hold() -> None:
    half = network(dtype=np.float16)
    refused("mean does not fit float16, the type of the input 'image'", half, mean=[1e5])
    refused("std does not fit float16, the type of the input 'image'", half, std=[1e-9])


def test_inputs_that_cannot_be_normalized() -> None:
    refused("the input 'image' is uint8, wanted a tensor of floats", bytes_in())
    refused("the input 'image' has rank 1, wanted 2 or more", network(shape=("batch",)))
    unknown = network()
    unknown.graph.input[0].type.tensor_type.ClearField("shape")
    refused("the rank of the input 'image' is not known, wanted 2 or more", unknown)
    through = network()
    through.graph.output.append(through.graph.input[0])
    refused("the input 'image' is an output too, and would not be the same any more", through)
    refused("the input 'image' cannot be of type string, wanted a type of numbers", dtype=ir.DataType.STRING)


def bytes_in() -> onnx.ModelProto:
    draft = Draft()
    return draft.output(draft.node("Cast", draft.input("batch", 3, name="image", dtype=np.uint8), to=TensorProto.FLOAT))


def test_which_input() -> None:
    refused("the model has no input 'picture', it has 'image'", input_name="picture")
    draft = Draft()
    names = [draft.input("batch", 3, name=name) for name in ("left", "right")]
    source = draft.output(draft.node("Add", *names))
    refused("the model has the inputs 'left', 'right': say which one is to be normalized", source)
    result, _ = inserted(source, input_name="right")
    assert result.graph.node[0].input[0] == "right"


def test_a_constant_that_a_caller_may_override_is_no_input() -> None:
    draft = Draft()
    weight = draft.drawn(3, 2, name="weight")
    draft.inputs.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, [3, 2]))
    source = draft.output(draft.node("MatMul", draft.input("batch", 3, name="image"), weight))
    result, _ = inserted(source)
    assert result.graph.node[0].input[0] == "image"
    refused("the model has no input 'weight', it has 'image'", source, input_name="weight")
