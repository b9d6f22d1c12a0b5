"""Who opens a broken servable anew, and who waits for it."""

import threading
import weakref

import numpy as np
import pytest
from normserve_server import restarting
from normserve_server.errors import DeviceBrokenError, InternalError, LoadError, UnavailableError
from normserve_server.restarting import FAILED, RESTARTED, Restarting
from normserve_server.servable import Signature

X = {"x": np.zeros(1)}


class Session:
    signature = Signature((), (), 0)
    provider = "CUDAExecutionProvider"

    def __init__(self, name, error=None):
        self.name = name
        self.error = error
        self.runs = 0

    def run(self, inputs):
        self.runs += 1
        if self.error:
            raise type(self.error)(*self.error.args)
        return [self.name]


class Opened:
    """A servable that is broken, and what each attempt to open it anew gives."""

    def __init__(self, *attempts):
        self.attempts = list(attempts)
        self.told = []
        self.broken = Session("first", DeviceBrokenError("cuda:0: lost"))
        self.servable = Restarting(self.broken, self.reopen, self.told.append)

    def reopen(self):
        attempt = self.attempts.pop(0)
        if isinstance(attempt, Exception):
            raise attempt
        return attempt


def test_the_run_that_finds_it_broken_fails_and_the_next_one_works() -> None:
    opened = Opened(Session("second"))
    with pytest.raises(DeviceBrokenError, match="cuda:0: lost"):
        opened.servable.run(X)
    assert opened.servable.run(X) == ["second"]
    assert opened.told == [RESTARTED]
    assert opened.servable.provider == "CUDAExecutionProvider"


def test_the_broken_one_is_let_go_of_before_another_is_opened() -> None:
    """There may not be room for both."""
    opened, gone = Opened(), []
    broken = weakref.ref(opened.broken)
    del opened.broken
    opened.servable._reopen = lambda: gone.append(broken() is None) or Session("second")
    with pytest.raises(DeviceBrokenError):
        opened.servable.run(X)
    assert gone == [True]


def test_an_error_of_the_model_is_no_reason() -> None:
    opened = Opened()
    opened.broken.error = InternalError("onnxruntime: indices")
    with pytest.raises(InternalError):
        opened.servable.run(X)
    assert not opened.told


def test_while_it_cannot_be_opened_nobody_tries_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [100.0]
    monkeypatch.setattr(restarting, "now", lambda: moment[0])
    opened = Opened(LoadError("no device"), RuntimeError("still none"), Session("third"))
    for reason in ("no device", "no device"):
        with pytest.raises(UnavailableError, match=f"a new session cannot be opened: {reason}"):
            opened.servable.run(X)
    assert opened.told == [FAILED]
    moment[0] += restarting.RETRY_SECONDS
    with pytest.raises(UnavailableError, match="still none"):
        opened.servable.run(X)
    moment[0] += restarting.RETRY_SECONDS
    assert opened.servable.run(X) == ["third"]
    assert opened.told == [FAILED, FAILED, RESTARTED]


def test_two_threads_that_find_it_broken_open_it_once() -> None:
    both = threading.Barrier(2)
    opened = Opened(Session("second"))
    fail = opened.broken.run

    def run_together(inputs):
        both.wait(10)
        return fail(inputs)

    opened.broken.run = run_together
    errors = []

    def run():
        try:
            opened.servable.run(X)
        except DeviceBrokenError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 2
    assert opened.told == [RESTARTED]
    assert opened.servable.run(X) == ["second"]
