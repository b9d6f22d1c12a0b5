"""Each test runs twice: in the suite on a device that pretends, and by `make test-gpu` on the machine's card.

`make test-gpu` writes what came of it as one JSON and one table, with the card's name in their names.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from gpu_tools import card, outcomes

RESULTS = Path(os.environ.get("NORMSERVE_GPU_RESULTS", Path(__file__).parents[2] / "benchmarks" / "results"))
MARK = "gpu"
ON = [pytest.param("pretended", id="pretended"), pytest.param("card", id="card", marks=pytest.mark.gpu)]


@dataclass(frozen=True)
class Place:
    """Where a test runs.

    Attributes:
        accelerator: the device.
        setting: the server's setting `device`.
        real: whether it is a card.
    """

    accelerator: object
    setting: str
    real: bool


@pytest.fixture(scope="session")
def card_itself():
    """The machine's first GPU, opened once."""
    from normserve_server.accelerators.opened import open_one
    from normserve_server.devices import CUDA, Device

    return Place(open_one(Device(CUDA, 0)), "cuda:0", real=True)


@pytest.fixture(params=ON)
def place(request):
    if request.param == "card":
        return request.getfixturevalue("card_itself")
    from fake_device import FakeAccelerator

    return Place(FakeAccelerator(), "cpu", real=False)


@pytest.fixture
def accelerator(place):
    return place.accelerator


def pytest_configure(config):
    """Ends a run that is for the card alone where there is none."""
    if config.option.markexpr != MARK:
        return
    try:
        config.stash[_FOUND] = card.find()
    except card.NoCardError as error:
        pytest.exit(f"test-gpu: nothing was tested: {error}", returncode=1)


def pytest_terminal_summary(terminalreporter, config):
    """Writes what came of the tests on a card."""
    found = config.stash.get(_FOUND, None)
    if found is not None:
        path = outcomes.write(RESULTS, found, outcomes.told(terminalreporter.stats))
        terminalreporter.write_line(f"written: {path}")


_FOUND = pytest.StashKey()
