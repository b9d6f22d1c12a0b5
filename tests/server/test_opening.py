from pathlib import Path

import numpy as np
import pytest
from normserve_server import opening, placement
from normserve_server.devices import CPU, Device
from normserve_server.model_config import InstanceGroup, ModelConfig
from normserve_server.opening import Opener
from normserve_server.servable import Servable
from normserve_server.settings import Settings


@pytest.mark.parametrize(
    ("workers", "instances", "given", "threads"),
    [(1, 1, 0, 0), (2, 1, 0, 4), (1, 2, 0, 4), (2, 2, 0, 2), (16, 1, 0, 1), (2, 1, 5, 5)],
)
def test_all_instances_of_all_workers_share_the_cores(
    digits_repository: Path, monkeypatch: pytest.MonkeyPatch, workers: int, instances: int, given: int, threads: int
) -> None:
    monkeypatch.setattr(placement, "cores", lambda: 8)
    monkeypatch.setattr(opening, "SMALL_RUN_SECONDS", 0.0)
    folder = digits_repository / "digits"
    settings = Settings(repository=(digits_repository,), workers=workers, intra_op_threads=given)
    config = ModelConfig(instances=(InstanceGroup(instances),))
    opened = Opener(folder / "1" / "model.onnx", folder, config, settings).open_all(Device(CPU))
    assert [one.threads for one in opened] == [threads] * instances


def test_operators_of_the_config_run_on_the_cpu_too(digits_repository: Path) -> None:
    folder = digits_repository / "digits"
    settings = Settings(repository=(digits_repository,))

    def opened(operators: dict[str, dict[str, object]]) -> Servable:
        opener = Opener(folder / "1" / "model.onnx", folder, ModelConfig(operators=operators), settings)
        return opener.open_all(Device(CPU))[0].servable

    plain = opened({})
    (image,), (logits,) = plain.signature.inputs, plain.signature.outputs
    inputs = {image.name: np.random.default_rng(0).uniform(0, 16, (2, *image.shape[1:])).astype(np.float32)}
    (given,) = plain.run(inputs)
    (scaled,) = opened({logits.name: {"operator": "normalize", "dim": 1}}).run(inputs)
    np.testing.assert_allclose(scaled, given / np.linalg.norm(given, axis=1, keepdims=True), rtol=1e-5)
