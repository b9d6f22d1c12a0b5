"""What benchmarks say of the rounds that they have measured."""

import os
import time

import numpy as np
import pytest
from serving_tools.figures import LEAST_SURE, Ratio, cpu_seconds


def test_few_rounds_have_extremes_and_many_have_an_interval() -> None:
    assert str(Ratio.of([1.2, 0.9, 1.0])) == "1.00 (0.90 to 1.20)"
    assert Ratio.of([1.0] * (LEAST_SURE - 1)).sure is None
    many = Ratio.of([position / 100 for position in range(101)])
    assert many.sure == (0.40, 0.60)  # 0.5 of the values, less and more by 1.96 times half the root of how many there are
    assert str(many) == "0.500 ± 0.100"


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [Ratio.of(rng.exponential(1.0, 60).tolist()).sure for _ in range(1000)]
    held = sum(low <= np.log(2) <= high for low, high in filter(None, intervals))
    assert 930 <= held <= 980


def test_processor_time_is_that_of_the_process() -> None:
    before, began = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() < began + 0.02:
        pass
    assert cpu_seconds(os.getpid()) - before >= 0.02
    with pytest.raises(ProcessLookupError):
        cpu_seconds(2**22 + 1)  # more than there can be
