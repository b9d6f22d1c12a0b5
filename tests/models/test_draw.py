"""Inputs for proofs."""

import numpy as np
import onnxruntime
import pytest
from normserve_models import draw
from normserve_models.draw import SamplesError
from normserve_models.testing import Draft


def session(*inputs) -> onnxruntime.InferenceSession:
    """A model with these inputs, (shape, dtype) each, that does nothing with them."""
    draft = Draft()
    outputs = [
        draft.node("Identity", draft.input(*shape, name=f"x{n}", dtype=dtype)) for n, (shape, dtype) in enumerate(inputs)
    ]
    model = draft.output(*outputs[:1], dtype=inputs[0][1])
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_rounds_are_normal_and_uniform_in_turn_and_always_the_same() -> None:
    runtime = session((("batch", 50), np.float32))
    normal, uniform = draw.drawn(runtime, range(2))
    assert normal["x0"].shape == uniform["x0"].shape == (4, 50)
    assert normal["x0"].min() < -1
    assert 0 <= uniform["x0"].min() <= uniform["x0"].max() < 1
    again, _ = draw.drawn(runtime, range(2))
    np.testing.assert_array_equal(again["x0"], normal["x0"])


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(np.uint8, 0, 255), (np.int8, -128, 127), (np.int64, 0, 1), (np.int32, 0, 1), (np.bool_, False, True)],
)
def test_integers(dtype, low, high) -> None:
    [batch] = draw.drawn(session((("batch", 3000), dtype)), range(1))
    assert batch["x0"].dtype == dtype
    assert (batch["x0"].min(), batch["x0"].max()) == (low, high)


def test_sizes_that_are_free_are_tried_until_one_runs() -> None:
    draft = Draft()
    x = draft.input("batch", 1, "height", "width", name="image")
    y = draft.node("Conv", x, draft.drawn(1, 1, 60, 60))
    runtime = onnxruntime.InferenceSession(draft.output(y).SerializeToString(), providers=["CPUExecutionProvider"])
    runtime.set_providers(["CPUExecutionProvider"])
    [batch] = draw.drawn(runtime, range(1))
    assert batch["image"].shape == (4, 1, 64, 64)


def test_a_size_that_does_not_agree_is_passed_over() -> None:
    runtime = session((("batch", "any"), np.float32))
    [batch] = draw.drawn(runtime, range(1), agrees=lambda batch, outputs: batch["x0"].shape == outputs[0].shape == (4, 64))
    assert batch["x0"].shape == (4, 64)
    [batch] = draw.drawn(runtime, range(1), agrees=lambda *_: False)
    assert batch["x0"].shape == (4, 16)


def test_a_size_that_is_not_free_needs_no_agreement() -> None:
    [batch] = draw.drawn(session((("batch", 2), np.float32)), range(1), agrees=None)
    [again] = draw.drawn(session((("batch", 2), np.float32)), range(1), agrees=lambda *_: pytest.fail("asked"))
    np.testing.assert_array_equal(batch["x0"], again["x0"])


def test_one_sample_can_be_drawn() -> None:
    [batch] = draw.drawn(session((("batch", 2), np.float32)), range(1), rows=1)
    assert batch["x0"].shape == (1, 2)


def test_a_large_row_is_drawn_once() -> None:
    [batch] = draw.drawn(session((("batch", 3, 224, 224), np.float32)), range(1))
    assert len(batch["x0"]) == 1


def test_a_fixed_batch_is_kept() -> None:
    [batch] = draw.drawn(session(((3, 2), np.float32)), range(1))
    assert batch["x0"].shape == (3, 2)


def test_strings_cannot_be_drawn() -> None:
    with pytest.raises(SamplesError, match="'x0' is of type"):
        next(draw.drawn(session((("batch",), np.str_)), range(1)))


def test_samples_go_through_in_chunks() -> None:
    runtime = session((("batch", 2), np.float32))
    array = np.arange(40, dtype=np.float32).reshape(20, 2)
    chunks = list(draw.given(runtime, {"x0": array}))
    assert [len(chunk["x0"]) for chunk in chunks] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate([chunk["x0"] for chunk in chunks]), array)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ({"other": np.zeros((1, 2), np.float32)}, "hold .*other.*wanted .*x0"),
        ({"x0": np.zeros((1, 2))}, "'x0' are float64, wanted float32"),
        ({"x0": np.zeros((1, 3), np.float32)}, r"'x0' have the shape \[1, 3\]"),
        ({"x0": np.zeros(2, np.float32)}, r"'x0' have the shape \[2\]"),
        ({"x0": np.zeros((0, 2), np.float32)}, "0"),
    ],
)
def test_samples_that_do_not_fit(samples, says) -> None:
    with pytest.raises(SamplesError, match=says):
        list(draw.given(session((("batch", 2), np.float32)), samples))


def test_samples_from_a_file(tmp_path) -> None:
    np.savez(tmp_path / "samples.npz", x0=np.ones((2, 2), np.float32))
    assert draw.read_samples(tmp_path / "samples.npz")["x0"].shape == (2, 2)
    (tmp_path / "other.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.ones(2))
    for name in ("other.npz", "array.npy", "nowhere.npz"):
        with pytest.raises(SamplesError, match=name):
            draw.read_samples(tmp_path / name)
