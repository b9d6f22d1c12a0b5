"""Where the time of a run on a device is counted: copies to it and from it are not the model's."""

import itertools

import numpy as np
import pytest
from fake_device import FakeAccelerator
from normserve_server import instance as instances
from normserve_server.compute import Times
from normserve_server.instance import Instance
from normserve_server.reshaping import Reshaped
from normserve_server.restarting import Restarting
from normserve_server.servable import Signature, TensorSpec
from normserve_server.session import OnnxSession
from normserve_server.validation import Work
from normserve_server.workers import Worker
from small_networks import linear

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),), 8)


class OnDevice:
    """A servable that gives back what it gets, and tells of its device."""

    signature, provider = SIGNATURE, "fake"
    times = Times(0.125, 9.0, 0.25)

    def run(self, inputs):
        return [inputs["x"]]


@pytest.fixture
def clock(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(instances, "now", lambda: next(ticks))


def laps(servable, requests, staging):
    work = [Work({"x": np.ones(2, np.float32)}, 2, ("x", ()), False) for _ in range(requests)]
    (run,) = Instance(servable, Worker("test"), staging=staging).run(work)
    return run.laps


@pytest.mark.parametrize("requests", [1, 2])
def test_copies_are_counted_where_they_belong(clock, requests):
    whole = laps(OnDevice(), requests, None)
    split = laps(OnDevice(), requests, FakeAccelerator().staging)
    assert split.input == whole.input + 0.125
    assert split.output == whole.output + 0.25
    assert sum(split) == sum(whole)


def test_the_parts_come_through_what_stands_around_a_session(tmp_path):
    session = OnnxSession(
        linear(tmp_path / "m.onnx"), FakeAccelerator(), threads=1, max_batch_size=None, default_max_batch_size=8
    )
    servable = Restarting(Reshaped(session, session.signature, {}, {}), lambda: session, lambda _event: None)
    assert servable.times is None  # nothing has run on this thread
    servable.run({"x": np.ones((2, 3), np.float32)})
    assert servable.times.copy_in >= 0
    assert servable.times == session.times
