"""The proof: what it measures, and that a wrong fold does not pass."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from normserve_models import graph, verify
from normserve_models.channels import Channels
from normserve_models.fold import fold
from normserve_models.measure import relative_error
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


@pytest.mark.parametrize(
    ("got", "wanted", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.5], [0.0], 0.5),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.inf, 1.0], [1.0, 1.0], np.inf),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([1.0, 1.0], [-np.inf, 1.0], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_relative_error(got, wanted, error) -> None:
    assert relative_error(np.array(got, np.float32), np.array(wanted, np.float64)) == error


def test_relative_error_of_integers_is_the_share_that_differs() -> None:
    assert relative_error(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.25
