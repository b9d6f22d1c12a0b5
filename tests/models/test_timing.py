"""What a run costs."""

import numpy as np
import onnx
import pytest
from normserve_models import timing
from normserve_models.testing import Draft


def products(path, count, size=300):
    """A file that multiplies matrices, one after the other."""
    draft = Draft()
    y = draft.input("batch", size, size)
    for _ in range(count):
        y = draft.node("MatMul", y, draft.constant(np.eye(size)))
    onnx.save(draft.output(y), path)
    return path


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.2)


def test_a_file_that_does_less_takes_less(tmp_path, short) -> None:
    cost = timing.compare(products(tmp_path / "source.onnx", 80), products(tmp_path / "folded.onnx", 1))
    assert 0 < cost.folded_ms < cost.unfolded_ms
    assert cost.ratio == pytest.approx(cost.folded_ms / cost.unfolded_ms, rel=1e-2)
    assert cost.ratio < 0.8
    assert cost.threads >= 1


def test_a_slow_file_is_run_a_few_times(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0)
    path = products(tmp_path / "source.onnx", 1)
    assert timing.compare(path, path).runs == timing.FEWEST


def test_a_fast_file_is_run_often_and_no_longer(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(timing, "MOST", 50)
    path = products(tmp_path / "source.onnx", 1, size=4)
    assert timing.compare(path, path).runs == 50
