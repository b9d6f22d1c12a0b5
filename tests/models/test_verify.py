"""The proof: what it measures, and that a wrong fold does not pass."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import graph, verify
from normserve_models.channels import Channels
from normserve_models.fold import fold
from normserve_models.runtime import ProofError
from normserve_models.testing import Draft


@pytest.fixture
def source(tmp_path):
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 6, 6, name="image"), draft.drawn(8, 3, 3, 3), pads=[1, 1, 1, 1])
    y = draft.node("Relu", draft.norm(y, 8))
    path = tmp_path / "source.onnx"
    onnx.save(draft.output(draft.norm(draft.node("Conv", y, draft.drawn(4, 8, 1, 1)), 4, name="last")), path)
    return path


def folded(source, change=None):
    """Fold `source`; `change` gets the initializers of the result by name."""
    model = graph.load(source)
    fold(model)
    if change is not None:
        for value in list(model.graph.initializers.values()):
            array = change(np.array(value.const_value.numpy()))
            value.const_value = ir.Tensor(array, name=value.name)
    path = source.with_name("folded.onnx")
    graph.save(model, path, "unused")
    return path


def test_a_right_fold_passes(source) -> None:
    [error] = verify.prove(source, folded(source)).outputs
    assert error.name == "last.y"
    assert error.folded <= error.bound
    assert error.bound == max(1e-6, 2 * error.unfolded)


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-5])
def test_a_wrong_fold_does_not(source, size) -> None:
    wrong = folded(source, lambda array: array * np.float32(1 + size))
    with pytest.raises(
        ProofError, match=r"output 'last\.y': the folded file is off by .*, the unfolded one by .*, allowed is 1e-06"
    ):
        verify.prove(source, wrong)


def test_a_fold_that_gives_nan_does_not(source) -> None:
    with pytest.raises(ProofError, match="off by not finite"):
        verify.prove(source, folded(source, lambda array: array * np.float32(np.nan)))


def test_a_tolerance_takes_the_place_of_the_bound(source) -> None:
    wrong = folded(source, lambda array: array * np.float32(1 + 1e-4))
    [error] = verify.prove(source, wrong, tolerance=1e-2).outputs
    assert 1e-5 < error.folded < error.bound == 1e-2
    with pytest.raises(ProofError, match="allowed is 1e-12"):
        verify.prove(source, folded(source), tolerance=1e-12)


def deep(tmp_path, depth=6):
    """Conv, batch norm and ReLU in turn: conv0, norm0, conv1, norm1, ..."""
    draft = Draft()
    y = draft.input("batch", 3, 6, 6)
    for index in range(depth):
        y = draft.node("Conv", y, draft.drawn(4, 4 if index else 3, 3, 3), name=f"conv{index}", pads=[1] * 4)
        y = draft.node("Relu", draft.norm(y, 4, name=f"norm{index}"))
    path = tmp_path / "deep.onnx"
    onnx.save(draft.output(y), path)
    return path


def folded_wrongly(source, node, factor):
    """Fold `source`, and scale the weight of one node of the result."""
    path = folded(source)
    proto = onnx.load(path)
    [weight] = [found.input[1] for found in proto.graph.node if found.name == node]
    [tensor] = [found for found in proto.graph.initializer if found.name == weight]
    array = onnx.numpy_helper.to_array(tensor) * np.asarray(factor, np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, weight))
    onnx.save(proto, path)
    return path


def test_each_layer_that_changed_is_measured(tmp_path) -> None:
    source = deep(tmp_path)
    layers = verify.prove(source, folded(source)).layers
    assert [(layer.name, layer.value) for layer in layers] == [(f"conv{index}", f"norm{index}.y") for index in range(6)]
    for layer in layers:
        assert 0 < layer.folded < 1e-5
        assert 0 < layer.unfolded < 1e-5


def through_a_pool(draft: Draft) -> str:
    y = draft.node("Conv", draft.input("batch", 3, 8, 8), draft.drawn(4, 3, 3, 3))
    return draft.norm(draft.node("AveragePool", y, kernel_shape=[2, 2]), 4)


def through_a_sum_and_a_concat(draft: Draft) -> str:
    x = draft.input("batch", 3, 8, 8)
    parts = [draft.node("Conv", x, draft.drawn(4, 3, 3, 3)), draft.node("Conv", x, draft.drawn(4, 3, 3, 3))]
    total = draft.node("Add", parts[0], draft.drawn(4, 6, 6))
    return draft.norm(draft.node("Concat", total, parts[1], axis=1), 8)


def ahead_through_a_pool(draft: Draft) -> str:
    y = draft.norm(draft.node("Relu", draft.input("batch", 3, 8, 8)), 3)
    return draft.node("Conv", draft.node("AveragePool", y, kernel_shape=[2, 2]), draft.drawn(4, 3, 3, 3))


@pytest.mark.parametrize("network", [through_a_pool, through_a_sum_and_a_concat, ahead_through_a_pool])
def test_what_a_map_was_carried_through_is_not_taken_for_wrong(tmp_path, network) -> None:
    draft = Draft()
    onnx.save(draft.output(network(draft)), tmp_path / "source.onnx")
    [layer] = verify.prove(tmp_path / "source.onnx", folded(tmp_path / "source.onnx")).layers
    assert layer.folded < 1e-6


@pytest.mark.parametrize("wrong", range(6))
def test_the_layer_that_is_wrong_is_named(tmp_path, wrong) -> None:
    source = deep(tmp_path)
    with pytest.raises(ProofError, match=rf"output '.*; the first layer that is off is 'conv{wrong}', value 'norm{wrong}\.y'"):
        verify.prove(source, folded_wrongly(source, f"conv{wrong}", 1.001))


def test_a_layer_with_one_small_channel_wrong_is_named(tmp_path) -> None:
    """Beside a channel of millions the whole layer looks right; what follows takes the large one out again."""
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 6, 6), draft.drawn(4, 3, 1, 1), name="conv")
    parameters = (draft.constant(values) for values in ([1e6, 1, 1, 1], [0.5] * 4, [0] * 4, [1] * 4))
    y = draft.node("Relu", draft.node("BatchNormalization", y, *parameters, name="norm"))
    y = draft.node("Conv", y, draft.constant(np.array([[1e-6, 1, 1, 1]]).reshape(1, 4, 1, 1)))
    source = tmp_path / "source.onnx"
    onnx.save(draft.output(y), source)
    wrong = folded_wrongly(source, "conv", np.array([1, 0.5, 1, 1]).reshape(4, 1, 1, 1))
    with pytest.raises(ProofError, match=r"the first layer that is off is 'conv', value 'norm\.y', channel 1: "):
        verify.prove(source, wrong)


def test_a_fold_that_is_wrong_in_no_layer_names_the_worst(tmp_path) -> None:
    source = deep(tmp_path)
    wrong = folded(source)
    proto = onnx.load(wrong)
    relu = proto.graph.node[-1]
    relu.op_type = "LeakyRelu"
    onnx.save(proto, wrong)
    with pytest.raises(ProofError, match=r"; no layer by itself is off by more than its bound, the worst is 'conv\d', value"):
        verify.prove(source, wrong)


@pytest.mark.parametrize("external", [False, True])
def test_the_files_are_as_they_were_and_the_copies_are_gone(tmp_path, external) -> None:
    source = deep(tmp_path)
    if external:
        onnx.save(onnx.load(source), source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    target = folded(source)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(verify.prove(source, target).layers) == 6
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(ProofError):
        verify.prove(source, target, tolerance=1e-30)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def cancelling(tmp_path):
    """Scales from 0.01 to 100: large numbers cancel, and the unfolded file happens to be right to 3e-7 on all draws."""
    generator = np.random.default_rng(107)
    draft = Draft(seed=107)
    channels, inputs = int(generator.integers(2, 40)), int(generator.integers(1, 24))

    def norm(y):
        parameters = [generator.standard_normal(channels) * 10 ** generator.uniform(-2, 2, channels) for _ in range(3)]
        parameters.append(10 ** generator.uniform(-4, 4, channels))
        return draft.node("BatchNormalization", y, *map(draft.constant, parameters))

    y = norm(draft.node("Gemm", draft.input("batch", inputs), draft.drawn(inputs, channels), draft.drawn(channels)))
    path = tmp_path / "cancelling.onnx"
    onnx.save(draft.output(norm(draft.node("MatMul", draft.node("Relu", y), draft.drawn(channels, channels)))), path)
    return path


def test_a_fold_may_be_off_by_what_rounding_alone_does(tmp_path) -> None:
    source = cancelling(tmp_path)
    [error] = verify.prove(source, folded(source)).outputs
    assert 1e-6 < error.folded < error.bound
    assert error.folded > 2 * error.unfolded


def test_and_not_by_more(tmp_path) -> None:
    source = cancelling(tmp_path)
    with pytest.raises(ProofError):
        verify.prove(source, folded(source, lambda array: array * np.float32(1 + 1e-5)))


def test_a_free_size_at_which_the_source_gives_what_onnx_does_not_is_passed_over(tmp_path) -> None:
    """onnxruntime finds one place for a window of 24 over 16; onnx none, and the mean of nothing is no number."""
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, "height", "width"), draft.drawn(4, 3, 1, 1))
    y = draft.node("MaxPool", draft.norm(y, 4), kernel_shape=[24, 24], strides=[24, 24])
    path = tmp_path / "source.onnx"
    onnx.save(draft.output(draft.node("GlobalAveragePool", y)), path)
    [error] = verify.prove(path, folded(path)).outputs
    assert error.folded < error.bound < 1e-5
    with pytest.raises(ProofError):
        verify.prove(path, folded(path, lambda array: array * np.float32(1.1)))


def test_a_source_that_is_not_finite_proves_nothing(tmp_path) -> None:
    """float16 overflows where the reference does not: whatever the fold gave would be as right."""
    draft = Draft(dtype=np.float16)
    y = draft.norm(draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(4, 3, 3, 3)), 4)
    y = draft.node("Mul", draft.node("Mul", y, draft.constant([6e4])), draft.constant([6e4]))
    path = tmp_path / "source.onnx"
    onnx.save(draft.output(draft.node("Div", y, draft.constant([6e4]))), path)
    with pytest.raises(ProofError, match=r"the unfolded one by not finite, allowed is 0\.008"):
        verify.prove(path, folded(path))


def test_samples_are_looked_at_too(source) -> None:
    """A fold that is wrong only where the samples are."""
    wrong = folded(source, lambda array: array)
    proto = onnx.load(wrong)
    clip = onnx.helper.make_node("Clip", ["image", "", "limit"], ["clipped"])
    proto.graph.initializer.append(onnx.helper.make_tensor("limit", 1, [], [100.0]))
    proto.graph.node[0].input[0] = "clipped"
    proto.graph.node.insert(0, clip)
    onnx.save(proto, wrong)
    verify.prove(source, wrong)
    with pytest.raises(ProofError):
        verify.prove(source, wrong, samples={"image": np.full((3, 3, 6, 6), 500, np.float32)})


def test_the_floor_is_that_of_the_coarsest_type(tmp_path) -> None:
    draft = Draft(dtype=np.float16)
    y = draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(4, 3, 3, 3))
    path = tmp_path / "half.onnx"
    onnx.save(draft.output(draft.norm(y, 4, dtype=np.float32)), path)
    [error] = verify.prove(path, folded(path)).outputs
    assert error.bound >= 8e-3 > error.folded


def test_a_batch_norm_in_training_mode_is_run_as_it_is_meant(tmp_path) -> None:
    """scale equal to var and B equal to mean, as in every fresh one: onnxruntime shares and then overwrites them."""
    draft = Draft()
    ones, zeros = [draft.constant(np.ones(4)) for _ in range(2)], [draft.constant(np.zeros(4)) for _ in range(2)]
    y = draft.norm(draft.node("Conv", draft.input("batch", 3, 5, 5), draft.drawn(4, 3, 3, 3)), 4)
    y = draft.node("BatchNormalization", y, ones[0], zeros[0], zeros[1], ones[1], training_mode=1, outputs=3)
    path = tmp_path / "training.onnx"
    onnx.save(draft.output(y), path)
    [error] = verify.prove(path, folded(path)).outputs
    assert error.folded < 1e-5


def test_progress_goes_to_one(source) -> None:
    seen: list[float] = []
    verify.prove(source, folded(source), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_folded_file_that_does_not_load(source, tmp_path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ProofError, match=r"broken\.onnx: not an ONNX file"):
        verify.prove(source, tmp_path / "broken.onnx")


def wide(tmp_path):
    """A channel of millions beside three of about one."""
    draft = Draft()
    y = draft.node("Conv", draft.input("batch", 3, 6, 6), draft.drawn(4, 3, 3, 3))
    y = draft.norm(y, 4)
    y = draft.node(
        "BatchNormalization", y, draft.constant([1e6, 1, 1, 1]), *(draft.constant([v] * 4) for v in (0.5, 0, 1)), name="last"
    )
    path = tmp_path / "wide.onnx"
    onnx.save(draft.output(y), path)
    return path


def off_in_channel_1(array):
    return array * np.array([1, 0.5, 1, 1], np.float32).reshape(-1, *[1] * (array.ndim - 1))


def test_a_small_channel_that_is_wrong_is_found_beside_a_large_one(tmp_path) -> None:
    source = wide(tmp_path)
    verify.prove(source, folded(source))
    with pytest.raises(ProofError, match=r"output 'last\.y', channel 1: the folded file is off by 0\.5, .*, allowed is 0\.01"):
        verify.prove(source, folded(source, off_in_channel_1))


def test_a_tolerance_widens_the_bound_of_a_channel(tmp_path) -> None:
    source = wide(tmp_path)
    verify.prove(source, folded(source, off_in_channel_1), tolerance=0.6)
    with pytest.raises(ProofError, match=r"channel 1: .*, allowed is 0\.1$"):
        verify.prove(source, folded(source, off_in_channel_1), tolerance=0.1)


@pytest.mark.parametrize("seed", [27, 93, 168])  # which a floor of 1e-5 refuses
def test_right_folds_pass_with_channels_that_are_nearly_dead(tmp_path, seed) -> None:
    """Of 1000 channels behind a ReLU some hold nothing but remainders: rounding is large beside those."""
    draft = Draft(seed=seed)
    y = draft.node("Relu", draft.norm(draft.node("MatMul", draft.input("batch", 20), draft.drawn(20, 1000)), 1000))
    y = draft.node("Relu", draft.norm(draft.node("MatMul", y, draft.drawn(1000, 1000)), 1000))
    path = tmp_path / "relu.onnx"
    onnx.save(draft.output(y), path)
    verify.prove(path, folded(path))


def misses(*batches):
    """Judge batches of (folded, unfolded, wanted), an element a channel."""
    held = Channels(len(batches[0][0]), smallest=1e-38)
    for folded, unfolded, wanted in batches:
        for which, got in (("folded", folded), ("unfolded", unfolded)):
            held.look_at(which, np.array([got], np.float32), np.array([wanted], np.float64))
    return [miss.channel for miss in held.misses(1e-3)]


def test_a_channel_is_measured_by_itself() -> None:
    assert misses(([1e6, 0.5, -1.2], [1e6, 1, -2], [1e6, 1, -2])) == [1, 2]
    assert misses(([1e6, 1.0001], [1e6, 1], [1e6, 1])) == []


def test_a_channel_may_be_off_where_the_unfolded_file_is() -> None:
    assert misses(([1.09, 1.11], [1.01, 1.01], [1, 1])) == [1]


def test_a_batch_that_is_nearly_0_counts_with_the_others() -> None:
    assert misses(([2e-7], [1e-7], [1e-7]), ([1], [1], [1])) == []


def test_channels_that_are_0_or_not_finite() -> None:
    assert misses(([0, np.inf, 1], [0, np.inf, np.nan], [0, np.inf, 1])) == []
    assert misses(([1e-30, np.nan], [0, 1], [0, 1])) == [0, 1]
